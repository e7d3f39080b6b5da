"""What is in a model card."""

import ast
import re

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt

from configuration_eomt.model_card_eomt import model_card
from configuration_eomt.sharing_eomt import write_model_card
from modeling_eomt import EomtDinov3ForUniversalSegmentation


def card_of(folder):
    return ModelCard.load(folder / "README.md")


def test_what_is_known_about_a_model_is_in_its_metadata(model, processor, tmp_path):
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    write_model_card(
        tmp_path,
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
    card = card_of(tmp_path)
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
    card = ModelCard(model_card(tiny_config.to_dict(), settings, "me/pets"))
    assert f"{task}-segmentation" in card.data.tags
    assert f"A model for {task} segmentation" in card.text
    assert ("cannot join the windows" in card.text) == (task == "semantic")


def test_a_dinov3_models_positions_are_rotary(tiny_dinov3_config, tmp_path):
    EomtDinov3ForUniversalSegmentation(tiny_dinov3_config).save_pretrained(tmp_path)
    assert "| Positions | rotary |" in card_of(tmp_path).text


def test_nameless_classes_are_counted_and_many_are_folded_away(tiny_config):
    settings = tiny_config.to_diff_dict()
    settings.pop("id2label")  # as config.json has it for two nameless classes
    assert "2 classes without names" in model_card(settings, None, "pets")
    settings["id2label"] = {str(index): f"class {index}" for index in range(133)}
    text = model_card(settings, {"stuff_classes": [132]}, "pets")
    assert "<summary>133 classes</summary>" in text
    assert text.index("class 2,") < text.index("class 10,") < text.index("class 132 (stuff)")


def test_classes_without_a_name_or_with_one_of_several_lines_are_listed(tiny_config):
    settings = {**tiny_config.to_diff_dict(), "id2label": {"0": "cat", "1": None, "2": "blue\n\nsky"}}
    assert "3: cat, LABEL_1, blue sky\n" in model_card(settings, None, "pets")


def test_a_name_that_needs_quoting_is_quoted(tiny_config):
    assert 'model="a \\"b\\"/c"' in model_card(tiny_config.to_dict(), {}, 'a "b"/c')


HOSTILE = "a|b\n\n# c <script>x</script> [d](https://e.org) `f` \x1b[31m\u202e www.g.org ---"


def test_names_of_others_show_as_they_are_written(tiny_config):
    """Of classes, datasets, licences, results and the folder: no table, heading, HTML or link is made of them."""
    tiny_config.id2label = {0: HOSTILE, 1: "traffic_light", 2: "---"}
    card = ModelCard(
        model_card(
            tiny_config.to_dict(),
            {"task": "panoptic", "stuff_classes": [0]},
            f"me/{HOSTILE.replace('/', '')}",
            datasets=[HOSTILE, "pets"],
            license="other",
            license_name=HOSTILE,
            results={HOSTILE: 0.5},
            results_source=(HOSTILE, "javascript:alert(1)"),
        )
    )
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
    card = model_card(tiny_config.to_dict(), {"task": "panoptic"}, name)
    (argument,) = re.findall("model=(.*), trust_remote_code", card)
    assert ast.literal_eval(argument) == name and argument.isascii()
