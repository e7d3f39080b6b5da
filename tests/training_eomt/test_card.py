"""What is in a model card, and who may write one."""

import ast
import re

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from configuration_eomt import EomtConfig
from image_processing_eomt import EomtImageProcessor
from modeling_eomt import MODEL_CLASSES, EomtForUniversalSegmentation
from training_eomt.card import PUBLISHING, TRAINING, is_generated, keep_hub_card, model_card, write_card


@pytest.fixture
def folder(tiny_config, tmp_path):
    """A folder with a model and an image processor."""
    EomtForUniversalSegmentation(tiny_config).save_pretrained(tmp_path)
    EomtImageProcessor(size=64, stuff_classes=[2]).save_pretrained(tmp_path)
    return tmp_path


def card_of(folder):
    return ModelCard.load(folder / "README.md")


def test_what_is_known_about_a_model_is_in_its_metadata(folder):
    write_card(
        folder,
        "me/pets",
        license="other",
        license_name="pets-licence",
        license_link="https://example.org/licence",
        datasets=["pets", "more-pets"],
        base_model="me/base",
        results={"pq": 0.5, "sq": 0.75},
        results_source=("The authors", "https://example.org"),
        tags=["pets"],
    )
    card = card_of(folder)
    metadata = card.data.to_dict()
    (result,) = metadata.pop("model-index")[0]["results"]
    assert metadata == {
        "library_name": "transformers",
        "pipeline_tag": "image-segmentation",
        "tags": ["eomt", "panoptic-segmentation", "pets"],
        "license": "other",
        "license_name": "pets-licence",
        "license_link": "https://example.org/licence",
        "datasets": ["pets", "more-pets"],
        "base_model": "me/base",
    }
    assert result == {
        "task": {"type": "image-segmentation", "name": "panoptic segmentation"},
        "dataset": {"name": "pets", "type": "pets"},
        "metrics": [{"type": "pq", "value": 0.5}, {"type": "sq", "value": 0.75}],
        "source": {"name": "The authors", "url": "https://example.org"},
    }
    assert "| pq | 0.5 |" in card.text and "not measured here" in card.text


@pytest.mark.parametrize("task", ["panoptic", "instance", "semantic"])
def test_every_task_is_named(tiny_config, task):
    settings = {"task": task, "do_split_image": task == "semantic"}
    card = model_card(tiny_config, settings, "me/pets")
    assert f"{task}-segmentation" in card.data.tags
    assert f"for {task} segmentation" in card.text
    assert ("cannot join the windows" in card.text) == (task == "semantic")


def test_the_positions_of_a_model_are_named(family_config, tmp_path):
    MODEL_CLASSES[family_config.model_type](family_config).save_pretrained(tmp_path)
    write_card(tmp_path)
    names = {"eomt": "learned", "eomt_dinov3": "rotary", "eomt_eva02": "learned and rotary"}
    assert f"| Positions | {names[family_config.model_type]} |" in card_of(tmp_path).text


def test_a_model_that_transformers_does_not_have_is_not_said_to_load_there(tiny_eva02_config, tiny_config):
    there, not_there = (model_card(config, {}, "me/pets").text for config in (tiny_config, tiny_eva02_config))
    assert "Without `trust_remote_code`, Transformers' own classes load" in there
    assert "first. Transformers has no class of its own for this model.\n" in not_there
    assert "Without `trust_remote_code`" not in not_there


def test_nameless_classes_are_counted_and_many_are_folded_away(tiny_config):
    assert "2 classes, without names\n" in model_card(EomtConfig(), None, "pets").text
    tiny_config.id2label = {index: f"class {index}" for index in range(133)}
    text = model_card(tiny_config, {"stuff_classes": [132]}, "pets").text
    assert "<summary>133 classes, 1 of them stuff</summary>" in text
    assert text.index("class 2,") < text.index("class 10,") < text.index("class 132 (stuff)")


def test_a_class_whose_name_has_several_lines_is_listed(tiny_config):
    tiny_config.id2label = {0: "cat", 1: "LABEL_1", 2: "blue\n\nsky"}
    assert "3 classes: cat, LABEL_1, blue sky\n" in model_card(tiny_config, None, "pets").text


def test_a_name_that_needs_quoting_is_quoted(tiny_config):
    assert 'model="a \\"b\\"/c"' in model_card(tiny_config, {}, 'a "b"/c').text


HOSTILE = "a|b\n\n# c <script>x</script> [d](https://e.org) `f` \x1b[31m\u202e www.g.org ---"


def test_names_of_others_show_as_they_are_written(tiny_config):
    """Of classes, datasets, licences, results and the folder: no table, heading, HTML or link is made of them."""
    tiny_config.id2label = {0: HOSTILE, 1: "traffic_light", 2: "---"}
    card = model_card(
        tiny_config,
        {"task": "panoptic", "stuff_classes": [0]},
        f"me/{HOSTILE.replace('/', '')}",
        datasets=[HOSTILE, "pets"],
        license="other",
        license_name=HOSTILE,
        results={HOSTILE: 0.5},
        results_source=(HOSTILE, "javascript:alert(1)"),
    )
    card = ModelCard(str(card))
    assert card.data.datasets == [HOSTILE, "pets"] and card.data.license_name == HOSTILE
    text = card.text
    assert "\x1b" not in text and "\u202e" not in text and "javascript" not in text
    html = MarkdownIt("commonmark").enable("table").render(text)
    assert "<script" not in html and 'e.org"' not in html and 'g.org"' not in html
    assert [title for title in re.findall("<h[12]>(.*)</h[12]>", html) if "script" not in title] == [
        "Use",
        "Model",
        "Classes",
        "Results",
        "Citation",
    ]
    rows = re.findall("<tr>\\s*(.*?)\\s*</tr>", html, flags=re.DOTALL)
    assert rows and all(row.count("<td>") + row.count("<th>") == 2 for row in rows)
    assert "traffic_light" in html and "a|b # c &lt;script&gt;x&lt;/script&gt; [d](https://e.org)" in html


def test_a_name_that_is_not_printable_is_still_the_name_in_the_code(tiny_config):
    name = 'out"put\u202e\x1b'
    card = model_card(tiny_config, {"task": "panoptic"}, name)
    (argument,) = re.findall("model=(.*), trust_remote_code", card.text)
    assert ast.literal_eval(argument) == name and argument.isascii()


def test_a_model_without_an_image_processor_is_loaded_by_its_class(tiny_config, tmp_path):
    EomtForUniversalSegmentation(tiny_config).save_pretrained(tmp_path)
    write_card(tmp_path)
    text = card_of(tmp_path).text
    assert "pipeline(" not in text and "AutoModelForUniversalSegmentation" in text and "not saved here yet" in text


def test_saving_writes_no_card_and_leaves_one_alone(folder, tiny_config):
    assert not (folder / "README.md").exists()
    write_card(folder, author=PUBLISHING, license="mit")
    before = (folder / "README.md").read_text()
    EomtForUniversalSegmentation(tiny_config).save_pretrained(folder)
    EomtImageProcessor(size=64).save_pretrained(folder)
    assert (folder / "README.md").read_text() == before


@pytest.mark.parametrize("text", [b"# Mine\n", b"# M\xfcll\n", b"", b"---\ntags: [\n---\n"])
def test_a_persons_card_stays(folder, text):
    (folder / "README.md").write_bytes(text)
    write_card(folder, license="mit")
    assert (folder / "README.md").read_bytes() == text


CHANGES = ("a word", "the licence", "a line above all", "the comment", "broken metadata", "no metadata", "a number")


@pytest.mark.parametrize("change", [*CHANGES, "results"])
def test_a_card_that_a_person_has_changed_stays(folder, change):
    write_card(folder, license="mit")
    text = (folder / "README.md").read_text()
    before, after = {
        "a word": ("plain Vision", "very plain Vision"),
        "the licence": ("license: mit", "license: apache-2.0"),
        "a line above all": ("<!--", "My pets.\n\n<!--"),
        "the comment": (text[text.index("<!--") : text.index("-->")], "<!-- "),
        "broken metadata": ("tags:", "tags: ["),
        "no metadata": (text[: text.index("\n---\n")], "---\n- mine"),
        "a number": ("license:", "1: 2\nlicense:"),
        "results": ("license:", "model-index: mine\nlicense:"),
    }[change]
    assert is_generated(text) and before in text
    changed = text.replace(before, after, 1)
    (folder / "README.md").write_text(changed)
    write_card(folder, license="apache-2.0")
    assert (folder / "README.md").read_text() == changed and not is_generated(changed)


@pytest.mark.parametrize("author", [TRAINING, PUBLISHING])
def test_a_generated_card_is_written_again_with_its_further_tags(folder, author):
    write_card(folder, author=author, license="mit", results={"pq": 0.1 + 0.2}, tags=["mine"])
    path = folder / "README.md"
    path.write_bytes(path.read_bytes().replace(b"- mine\n", b"- mine\n- theirs\n").replace(b"\n", b"\r\n"))
    assert is_generated(path.read_text(), author) and not is_generated(path.read_text(), "somebody")
    write_card(folder, tags=["yours", "mine"])
    card = card_of(folder)
    assert is_generated(str(card), TRAINING) and card.data.license is None and card.data.eval_results is None
    assert card.data.tags == ["eomt", "panoptic-segmentation", "mine", "theirs", "yours"]


def test_a_card_needs_a_model(tmp_path):
    with pytest.raises(OSError, match=r"config\.json"):
        write_card(tmp_path)


def test_sizes_that_differ_are_warned_of(folder, caplog):
    write_card(folder)
    assert not caplog.records
    model = EomtForUniversalSegmentation.from_pretrained(folder)
    model.set_image_size(128)
    model.save_pretrained(folder)
    write_card(folder)
    assert "images of 128 pixels" in caplog.text and "set_image_size" in caplog.text


def test_a_card_that_a_person_wrote_on_the_hub_comes_to_the_folder_that_will_be_uploaded(folder, hub):
    keep_hub_card(folder, "me/pets")
    assert not (folder / "README.md").exists()
    write_card(folder)
    generated = (folder / "README.md").read_bytes()
    hub.files["README.md"] = b"# M\xfcll\n"
    keep_hub_card(folder, "me/pets")
    assert (folder / "README.md").read_bytes() == b"# M\xfcll\n"
    hub.files["README.md"] = generated
    keep_hub_card(folder, "me/pets")
    (folder / "README.md").write_text("# Mine\n")
    keep_hub_card(folder, "me/pets")
    assert (folder / "README.md").read_text() == "# Mine\n"
