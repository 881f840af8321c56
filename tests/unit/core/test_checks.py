import pytest

from imsd.contract import InvalidRequest
from imsd.core import checks


@pytest.mark.parametrize("name", ["a", "web base 1.0_x-y", "数据盘", "x" * 128, "-.-"])
def test_good_names_pass(name: str) -> None:
    assert checks.name(name) == name


@pytest.mark.parametrize("name", ["", " a", "a ", "x" * 129, "a/b", "a\n", "a\0b", "<b>", "a\tb", "a:b"])
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checks.name(name)
    assert refused.value.field == "name"


@pytest.mark.parametrize("text", ["a<b", "a>b", "a\rb", "x" * 1025, "\0"])
def test_bad_descriptions_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        checks.description(text)


def test_a_description_may_have_lines() -> None:
    assert checks.description("one\ntwo") == "one\ntwo"


@pytest.mark.parametrize(
    "tags",
    [
        {str(n): "" for n in range(11)},
        {"": "v"},
        {"k" * 37: "v"},
        {"k": "v" * 44},
        {"a b": "v"},
        {"a.b": "v"},
        {"k": "a=b"},
    ],
)
def test_bad_tags_are_refused(tags: dict[str, str]) -> None:
    with pytest.raises(InvalidRequest) as refused:
        checks.tags(tags)
    assert refused.value.field == "tags"


def test_ten_tags_pass() -> None:
    tags = {f"key_{n}": "v1.0-x" for n in range(10)}
    assert checks.tags(tags) == tags


@pytest.mark.parametrize("value", ["", "x", "../../etc", "A" * 36, "00000000-0000-0000-0000-00000000000G"])
def test_what_is_no_uuid_is_refused(value: str) -> None:
    with pytest.raises(InvalidRequest):
        checks.uuid("image_id", value)


def test_a_maximum_below_the_minimum_is_refused() -> None:
    with pytest.raises(InvalidRequest) as refused:
        checks.ram(2048, 1024)
    assert refused.value.field == "max_ram_mb"


@pytest.mark.parametrize("size", [-1, 1001, 2**31 - 1])
def test_a_page_has_its_limits(size: int) -> None:
    with pytest.raises(InvalidRequest):
        checks.page_size(size)


def test_an_empty_project_is_the_default_one() -> None:
    assert checks.project_id("") == "default"
    with pytest.raises(InvalidRequest):
        checks.project_id("../x")


def test_tags_come_in_one_order() -> None:
    assert list(checks.tags({"b": "2", "a": "1"})) == ["a", "b"]
