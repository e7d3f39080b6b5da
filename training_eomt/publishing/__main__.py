"""`python -m training_eomt.publishing`: see `publish.py`."""

from .publish import main


if __name__ == "__main__":
    main()
