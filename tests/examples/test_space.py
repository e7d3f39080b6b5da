"""The Space starts as Hugging Face starts it: `python app.py`, told by variables where to listen."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from image_processing_eomt import EomtImageProcessor
from modeling_eomt import EomtForUniversalSegmentation


SPACE = Path(__file__).resolve().parents[2] / "examples" / "space"


def test_the_card_names_the_file_the_model_and_a_gradio_that_the_package_takes():
    card = yaml.safe_load((SPACE / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert card["sdk"] == "gradio"
    assert (SPACE / card["app_file"]).is_file()
    assert f'"{card["models"][0]}"' in (SPACE / "app.py").read_text(encoding="utf-8")
    assert len(card["short_description"]) <= 60  # the Hub's limit
    (bound,) = re.findall(r'"gradio>=([\d.]+)"', (SPACE.parents[1] / "setup.py").read_text(encoding="utf-8"))
    assert card["sdk_version"].startswith(bound)


def test_it_starts_with_the_checkpoint_of_its_variable_and_leaves_nothing_behind(tmp_path, tiny_config):
    pytest.importorskip("gradio", reason="the Space needs gradio: pip install 'eomt-transformers[app]'")
    EomtForUniversalSegmentation(tiny_config).save_pretrained(tmp_path / "model")
    EomtImageProcessor(size=64).save_pretrained(tmp_path / "model")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    environment = {
        **os.environ,
        "EOMT_MODEL": str(tmp_path / "model"),
        "GRADIO_SERVER_PORT": str(port),
        "PYTHONPATH": str(SPACE.parents[1]),
        "TMPDIR": str(temporary),
    }
    server = subprocess.Popen([sys.executable, "app.py"], cwd=SPACE, env=environment)
    try:
        deadline = time.monotonic() + 300
        while True:
            assert server.poll() is None, "the Space stopped"
            assert time.monotonic() < deadline, "the Space does not answer"
            try:
                page = httpx.get(f"http://127.0.0.1:{port}", trust_env=False)
                break
            except httpx.TransportError:
                time.sleep(0.2)
        assert page.status_code == 200
        assert "EoMT segmentation" in page.text
        assert list(temporary.glob("eomt_app_*"))
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(timeout=60)
    assert not list(temporary.glob("eomt_app_*"))
