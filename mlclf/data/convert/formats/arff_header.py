"""The header of ARFF, the format of WEKA, as Mulan and MEKA use it: attributes, and which of them are labels.

Format: https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/. Mulan names the labels in an XML file,
MEKA gives their number in the relation's name: ``-C 3`` are the first three attributes, ``-C -3`` the last three.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from mlclf.errors import ConfigError, DataError
from mlclf.given_files import read_given, reason_of

NUMERIC, TEXT, NOMINAL = "numeric", "string", "nominal"
_NAME = r"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\S+)"""
_ATTRIBUTE = re.compile(rf"@attribute\s+{_NAME}\s+(\{{.*\}}|\S+.*)\s*$", re.IGNORECASE)
_RELATION = re.compile(r"@relation\s+(.*)$", re.IGNORECASE)
_LEVEL = re.compile(r"""\s*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^,]*)\s*(,|$)""")
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NUMBER_WORDS = ("numeric", "real", "integer")
MOST_XML_BYTES = 64 << 20


@dataclass(frozen=True)
class Attribute:
    """One attribute: `kind` is numeric, string (also of dates) or nominal, which has levels."""

    name: str
    kind: str
    levels: tuple[str, ...] = ()

    @property
    def is_numeric(self) -> bool:
        return self.kind == NUMERIC or (self.kind == NOMINAL and all(map(NUMBER.fullmatch, self.levels)))

    @property
    def is_binary(self) -> bool:
        return self.kind == NUMERIC or (self.kind == NOMINAL and set(self.levels) <= {"0", "1"})


@dataclass(frozen=True)
class Header:
    """What stands before the data.

    Attributes:
        relation: name of the relation.
        attributes: in file order.
        labels: positions of the labels, in the order in which they become columns.
        first_row: number of the line after ``@data``.
    """

    relation: str
    attributes: tuple[Attribute, ...]
    labels: tuple[int, ...]
    first_row: int


def read_header(path: Path, lines: Sequence[str], labels_xml: Path | None) -> Header:
    """The header of a file from its first lines.

    Raises:
        DataError: a line is malformed, names it; there is no @data; or labels are not named.
    """
    relation = ""
    attributes: list[Attribute] = []
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("%"):
            continue
        if text.lower() == "@data":
            return _with_labels(Header(relation, tuple(attributes), (), number + 1), path, labels_xml)
        if found := _RELATION.match(text):
            relation = _unquoted(found[1].strip())
        elif found := _ATTRIBUTE.match(text):
            attributes.append(_attribute(found[1], found[2].strip(), f"{path} line {number}"))
        else:
            raise DataError(
                f"{path} line {number}: expected @relation, @attribute NAME TYPE or @data, got {text[:60]!r}"
            )
    raise DataError(f"{path}: an ARFF file must have a line @data, and this one has none; check what the file is")


def _attribute(name: str, kind: str, place: str) -> Attribute:
    if kind.startswith("{"):
        levels, rest = [], kind[1:-1]
        position = 0
        while position < len(rest):
            match = _LEVEL.match(rest, position)
            if match is None:
                raise DataError(
                    f"{place}: expected levels {{A,B,...}} in quotes where they hold commas, got {kind[:60]!r}"
                )
            levels.append(_unquoted(match[1].strip()))
            position = match.end()
        return Attribute(_unquoted(name), NOMINAL, tuple(levels))
    word = kind.split()[0].lower()
    if word in NUMBER_WORDS:
        return Attribute(_unquoted(name), NUMERIC)
    if word in ("string", "date"):
        return Attribute(_unquoted(name), TEXT)
    raise DataError(f"{place}: a type must be numeric, real, integer, string, date or {{LEVELS}}, got {kind[:60]!r}")


def _unquoted(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    return text


def _with_labels(header: Header, path: Path, labels_xml: Path | None) -> Header:
    names = [attribute.name for attribute in header.attributes]
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise DataError(f"{path}: attributes must have distinct names, found {twice[0]!r} more than once; rename one")
    if labels_xml is not None:
        places = {name: index for index, name in enumerate(names)}
        wanted = xml_labels(labels_xml)
        missing = [name for name in wanted if name not in places]
        if missing:
            raise DataError(
                f"{labels_xml}: label {missing[0]!r} must be an attribute of {path}; check that they belong together"
            )
        labels = [places[name] for name in wanted]
    else:
        meka = re.search(r"(?:^|[\s:])-[cC]\s+(-?\d+)", header.relation)
        if meka is None:
            raise DataError(
                f"{path}: labels must be named by --labels-xml or by -C N in @relation, got {header.relation[:60]!r}"
            )
        count = int(meka[1])
        if not 0 < abs(count) <= len(names):
            raise DataError(f"{path}: -C {count} in @relation must be within the {len(names)} attributes; mend it")
        labels = list(range(count)) if count > 0 else list(range(len(names) + count, len(names)))
    columns = [label_column(names[index]) for index in labels]
    if len(set(columns)) < len(columns):
        raise DataError(f"{path}: two labels would have one column name; rename one in the file")
    return Header(header.relation, header.attributes, tuple(labels), header.first_row)


def xml_labels(path: Path) -> list[str]:
    """Names of the labels in Mulan's XML file, in its order.

    Raises:
        ConfigError: it cannot be read, or names none.
    """
    try:
        tree = ElementTree.fromstring(read_given(path, MOST_XML_BYTES))  # expat limits the growth of entities
    except (OSError, ElementTree.ParseError) as error:
        raise ConfigError(f"--labels-xml: {str(path)!r} must be Mulan's XML of labels: {reason_of(error)}") from None
    names = [each.get("name") for each in tree.iter() if each.tag.rpartition("}")[2] == "label"]
    found = [name for name in names if name is not None]
    if not found:
        raise ConfigError(f"--labels-xml: {str(path)!r} must hold <label name=...> elements, found none")
    return found


def label_column(name: str) -> str:
    """Column name of a label.

    >>> label_column("TAG_c++")
    'label_TAG_c__'
    """
    return "label_" + re.sub(r"[^0-9A-Za-z_]", "_", name)
