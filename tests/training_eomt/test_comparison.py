"""Where two runs differ is said by name, and not for hundreds of lines."""

from training_eomt.comparison import differences, model_settings


def test_differences_are_named_by_their_path_and_only_so_many():
    there = {"size": {"height": 1, "width": 2}, "seed": 1}
    now = {"size": {"height": 1, "width": 3}, "seed": 2, "new": (1,)}
    found = differences(there, now, left_out=("seed",))
    assert found == ["  new: null there, [1] now", "  size.width: 2 there, 3 now"]
    many = differences({}, {f"setting {number}": "x" * 1000 for number in range(100)})
    assert len(many) == 21 and many[-1] == "  and 80 more" and max(map(len, many)) < 200


def test_where_a_model_comes_from_is_no_part_of_what_it_is(tiny_config):
    before = model_settings(tiny_config)
    tiny_config._name_or_path, tiny_config.architectures = "elsewhere", ["Another"]
    assert model_settings(tiny_config) == before
    tiny_config.num_attention_heads *= 2
    assert model_settings(tiny_config) != before
