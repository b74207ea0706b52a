"""`python -m mlclf`."""

from mlclf.cli import main

if __name__ == "__main__":
    main()
