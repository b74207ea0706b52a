"""Every example runs, says what it should, draws its picture when asked, and is in the index."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import struct
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "examples"
LESSONS = sorted(path for path in FOLDER.glob("*.py") if path.name != "pictures.py")
SECONDS = 120
LEAST_PIXELS, LEAST_BYTES = (800, 500), 10_000
PNG = b"\x89PNG\r\n\x1a\n"

GRADIENT_DESCENT_LOSSES = [0.6931, 0.5710, 0.4932, 0.4403, 0.4019, 0.3726, 0.3495, 0.3305, 0.3147, 0.3013]


def output_of(name: str, folder: Path, *options: str) -> str:
    """Run a lesson in a folder and return what it prints; in this process, as importing torch takes longer than it."""
    script, output = FOLDER / f"{name}.py", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.chdir(folder), contextlib.redirect_stdout(output):
        patch.setattr(sys, "argv", [str(script), *options])
        patch.syspath_prepend(str(FOLDER))
        runpy.run_path(str(script), run_name="__main__")
    return output.getvalue()


def output_of_a_process(name: str, folder: Path, *options: str) -> str:
    """The same in a process of its own, for a lesson that measures its memory."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / f"{name}.py"), *options],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def output_with_picture(name: str, folder: Path) -> str:
    """Run a lesson and return what it prints; it must write its picture, and nothing else."""
    run = output_of_a_process if name == "streaming" else output_of
    output = run(name, folder, "--picture", "picture.png")
    assert [path.name for path in folder.iterdir()] == ["picture.png"]
    content = (folder / "picture.png").read_bytes()
    assert content.startswith(PNG)
    assert len(content) >= LEAST_BYTES
    width, height = struct.unpack(">II", content[16:24])
    assert width >= LEAST_PIXELS[0]
    assert height >= LEAST_PIXELS[1]
    return output


def row_of(output: str, beginning: str) -> list[float]:
    """The numbers of the one line that begins so."""
    (line,) = [line for line in output.splitlines() if line.strip().startswith(beginning)]
    return [float(text) for text in re.findall(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?", line.strip().removeprefix(beginning))]


def test_the_index_lists_every_example() -> None:
    assert len(LESSONS) >= 17
    listed = re.findall(r"\| \[`\w+\.py`\]\((\w+\.py)\)", (FOLDER / "README.md").read_text())
    assert sorted(listed) == [lesson.name for lesson in LESSONS]


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_an_example_has_a_test_of_its_numbers(lesson: Path) -> None:
    assert f"def test_{lesson.stem}(" in Path(__file__).read_text()


def test_a_lesson_leaves_nothing_behind_unasked(tmp_path: Path) -> None:
    assert output_of("log_loss", tmp_path)
    assert not list(tmp_path.iterdir())


def test_sigmoid(tmp_path: Path) -> None:
    output = output_with_picture("sigmoid", tmp_path)
    found = {int(logit): float(p) for logit, p in re.findall(r"^ *(-?\d+) +(\S+) +e\^", output, re.MULTILINE)}
    assert found == {-100: 3.7835e-44, -10: 4.5398e-05, 0: 0.5, 10: 0.99995, 100: 1.0}
    assert "0.1192 at -2 and 0.8808 at 2 make 1.0000" in output
    assert "Slope at 0: 0.25." in output


def test_log_loss(tmp_path: Path) -> None:
    output = output_with_picture("log_loss", tmp_path)
    assert row_of(output, "0.99") == [0.0101, 4.6052]
    assert row_of(output, "0.10") == [2.3026, 0.1054]


def test_squared_error(tmp_path: Path) -> None:
    output = output_with_picture("squared_error", tmp_path)
    slope, bend, squared_slope, squared_bend = row_of(output, "-10 ")
    assert (slope, bend) == (-0.999955, 0.000045)
    assert (squared_slope, squared_bend) == (-0.000091, -0.000091)
    assert row_of(output, "0 ") == [-0.5, 0.25, -0.25, 0.125]
    assert "log-loss: 11\n" in output
    assert "squared error: 11,034\n" in output


def test_gradient(tmp_path: Path) -> None:
    output = output_with_picture("gradient", tmp_path)
    for name in ("w1", "w2", "w3", "w4", "b"):
        by_hand, autograd = row_of(output, f"{name} ")
        assert by_hand == pytest.approx(autograd, abs=2e-6)
    assert "They agree within 0.000001: True." in output


def test_likelihood(tmp_path: Path) -> None:
    output = output_with_picture("likelihood", tmp_path)
    rows = {p: row_of(output, f"{p} ") for p in (0.3, 0.5, 0.6, 0.7, 0.8)}
    assert max(rows, key=lambda p: rows[p][0]) == min(rows, key=lambda p: rows[p][2]) == 0.7
    assert all(negated == loss for _, negated, loss in rows.values())
    assert rows[0.7] == [0.002224, 0.610864, 0.610864]
    assert "says 0.7000" in output
    assert "product 0, sum of logarithms -1386.29" in output


def test_gradient_descent(tmp_path: Path) -> None:
    output = output_with_picture("gradient_descent", tmp_path)
    found = re.findall(r"^ *(\d+) +(0\.\d{4}) +(0\.\d{4}) ", output, re.MULTILINE)
    assert [int(epoch) for epoch, _, _ in found] == list(range(0, 100, 10))
    assert [float(loss) for _, loss, _ in found] == GRADIENT_DESCENT_LOSSES
    assert [float(loss) for _, _, loss in found] == GRADIENT_DESCENT_LOSSES
    assert "After 100 steps" in output


def test_decision_boundary(tmp_path: Path) -> None:
    output = output_with_picture("decision_boundary", tmp_path)
    assert row_of(output, "true weights") == [2, -3, 0.5]
    assert row_of(output, "weights found") == pytest.approx([2, -3, 0.5], abs=0.2)
    for low in (-4, -2, 0, 2):
        _, share, mean = row_of(output, f"{low} to {low + 2:2}")
        assert share == pytest.approx(mean, abs=0.03)


@pytest.mark.slow
def test_churn(tmp_path: Path) -> None:
    output = output_with_picture("churn", tmp_path)
    right, steps, loss = re.findall(r"as it is: (\d+)% right after (\S+) steps, log-loss (\S+)", output)[0]
    assert steps == "1,000"
    assert 40 <= int(right) <= 60
    assert float(loss) > 0.6931
    assert row_of(output, "mlclf.fit:")[0] > 90
    for name in ("charge", "calls"):
        log_odds, ratio = row_of(output, name)
        assert ratio == pytest.approx(2.718281828**log_odds, rel=0.01)
    assert "A weight of 0.74 multiplies the odds by 2.1." in output


def test_two_clusters(tmp_path: Path) -> None:
    output = output_with_picture("two_clusters", tmp_path)
    *best, best_share = row_of(output, "by Bayes' rule")
    *found, share = row_of(output, "by mlclf.fit")
    assert best == [4, 4, 0]
    assert best_share == 99.77
    assert found == pytest.approx(best, abs=0.6)
    assert share == pytest.approx(best_share, abs=0.1)


def test_blobs(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    output = output_with_picture("blobs", tmp_path)
    assert row_of(output, "mlclf") == pytest.approx(row_of(output, "scikit-learn"), abs=2e-4)
    assert "Probabilities agree within 0.0001: True." in output


def test_stable_loss(tmp_path: Path) -> None:
    output = output_with_picture("stable_loss", tmp_path)
    rows = {(int(a), int(b)): rest for a, b, *rest in (line.split() for line in output.splitlines()[1:])}
    assert rows[1000, 0] == ["1000", "1", "inf", "nan"]
    assert rows[-1000, 1] == ["1000", "-1", "inf", "nan"]
    assert rows[1000, 1] == rows[-1000, 0] == ["0", "0", "nan", "nan"]


@pytest.mark.slow
def test_penalties(tmp_path: Path) -> None:
    output = output_with_picture("penalties", tmp_path)
    zeros, length, loss = zip(*(row_of(output, name) for name in ("none", "L2 of 0.03", "L1 of 0.03")), strict=True)
    assert zeros[:2] == (0, 0)
    assert 10 <= zeros[2] <= 17
    assert max(length[1:]) < length[0]
    assert loss[2] < loss[0]


def test_thresholds(tmp_path: Path) -> None:
    output = output_with_picture("thresholds", tmp_path)
    half, theory, tuned = (row_of(output, threshold) for threshold in ("0.5000", "0.0476", "0.0505"))
    assert half[1] < 15
    assert theory[1] > 70
    assert tuned[-1] == pytest.approx(theory[-1], rel=0.03)
    assert half[-1] > 2 * tuned[-1]


@pytest.mark.slow
def test_pos_weight(tmp_path: Path) -> None:
    output = output_with_picture("pos_weight", tmp_path)
    assert "5.80% of the rows are positive." in output
    plain, weighted, fitted = (row_of(output, name) for name in ("weight 1 ", "weight 30 ", "mlclf.fit, 30"))
    assert plain[0] == pytest.approx(5.80, abs=0.2)
    assert fitted[0] == pytest.approx(5.80, abs=0.2)
    assert weighted[0] > 30
    assert max(plain[1], weighted[1], fitted[1]) - min(plain[1], weighted[1], fitted[1]) < 0.001
    shift, logarithm = re.findall(r"logits by (\S+); ln 30 = (\d\.\d+)", output)[0]
    assert float(shift) == pytest.approx(float(logarithm), abs=0.05)


def test_ten_labels(tmp_path: Path) -> None:
    output = output_with_picture("ten_labels", tmp_path)
    assert "Linear(in_features=128, out_features=10, bias=True): 1,290 numbers" in output
    assert "The fourth label alone gets the same weights within 0.0001: True." in output
    rows = re.findall(r"^ +(\d) +(0\.\d+) +(0\.\d+) +(\d+\.\d)%$", output, re.MULTILINE)
    assert [int(label) for label, *_ in rows] == list(range(10))
    for _, share, mean, right in rows:
        assert float(mean) == pytest.approx(float(share), abs=0.03)
        assert float(right) > 80


@pytest.mark.slow
def test_xor(tmp_path: Path) -> None:
    output = output_with_picture("xor", tmp_path)
    line, line_loss = row_of(output, "no hidden layer")
    hidden, hidden_loss = row_of(output, "16 hidden units")
    assert 40 < line < 60
    assert line_loss == pytest.approx(0.6931, abs=0.01)
    assert hidden > 97
    assert hidden_loss < 0.15


@pytest.mark.slow
def test_streaming(tmp_path: Path) -> None:
    output = output_with_picture("streaming", tmp_path)
    data, cap = re.findall(r"decode to (\S+) MB; the cap is (\d+)", output)[0]
    assert float(data) >= 2 * float(cap)
    assert "within the cap: True." in output
    losses = re.findall(r"^ +\d +(0\.\d{6}) +(0\.\d{6})$", output, re.MULTILINE)
    assert len(losses) == 5
    assert all(streamed == resident for streamed, resident in losses)
    assert losses[0][0] == "0.693147"
    assert "The weights agree within 0.000001: True." in output
