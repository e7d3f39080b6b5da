"""The command line of the page."""

import sys

import pytest

from app_eomt.command import main


def test_without_a_model_and_without_the_demos_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "no folder outputs/shapes_demo here" in message
    assert "make demo" in message
    assert "--model" in message


def test_without_gradio_it_says_how_to_install_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(SystemExit):
        main(["--model", str(tmp_path)])
    assert "pip install 'eomt-transformers[app]'" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    pytest.importorskip("gradio")
    with pytest.raises(SystemExit) as stopped:
        main(["--model", str(tmp_path / "nothing")])
    assert str(stopped.value.code).startswith("eomt app: ")
    assert "nothing" in str(stopped.value.code)


def test_the_help_fits_on_a_screen(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 24
