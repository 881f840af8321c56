"""Which URLs may be fetched: every way to name what is not the public web is refused."""

from __future__ import annotations

from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from yarl import URL

from imsd.contract import InvalidRequest
from imsd.core.url_policy import MAX_URL, CheckedUrl, UrlPolicy

PUBLIC = UrlPolicy()
WITH_HTTP = UrlPolicy(allow_http=True, ports=[8443])
LAB = UrlPolicy(allowed_networks=["127.0.0.0/8", "fd00::/8"])


def refusal(policy: UrlPolicy, url: str) -> str:
    with pytest.raises(InvalidRequest) as refused:
        policy.check(url)
    assert refused.value.field == "url"
    return refused.value.reason


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/disk.qcow2",
        "https://example.org:443/a?b=c#d",
        "https://EXAMPLE.org./",
        "https://xn--bcher-kva.example/",
        "https://93.184.215.14/disk",
        "https://[2606:4700::1111]/disk",
        "https://[64:ff9b::5db8:d70e]/disk",
        "https://1-2-3.example/",
    ],
)
def test_the_public_web_may_be_asked(url: str) -> None:
    assert PUBLIC.check(url).port == 443


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "https:///etc/passwd",
        "https:example.org",
        "//example.org/",
        "example.org",
        "file:///etc/passwd",
        "ftp://example.org/",
        "gopher://example.org/",
        "data:text/plain,x",
        "unix:///run/x.sock",
        "http://example.org/",
        "HTTPS+X://example.org/",
        "https://user@example.org/",
        "https://user:secret@example.org/",
        "https://@example.org/",
        "https://example.org@127.0.0.1/",
        "https://example.org:22/",
        "https://example.org:0/",
        "https://example.org:99999/",
        "https://example.org:x/",
        "https://example.org:-1/",
        "https://exa mple.org/",
        "https://example.org/\r\nHost: internal",
        "https://example.org\\@127.0.0.1/",
        "https://example.org/\x00",
        "https://b\u00fccher.example/",
        "https://\u2460\u2461\u2466.0.0.1/",
        "https://127\u30020.0.1/",
        "https://exa%6dple.org/",
        "https://-x.example/",
        "https://a..example/",
        "https://.example/",
        "https://" + "a" * 64 + ".example/",
        "https://" + "a." * 127 + "example/",
        "https://example.org/" + "a" * MAX_URL,
        "https://[::1",
        "https://[fe80::1%25eth0]/",
        "https://[v1.x]/",
        "https://[127.0.0.1]/",
        "https://[]/",
    ],
)
def test_what_is_no_plain_https_url_is_refused(url: str) -> None:
    assert refusal(PUBLIC, url) == "URL_REFUSED"


@pytest.mark.parametrize(
    "host",
    [
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.0.0.1",
        "0X7F.1",
        "0177.0.0.1",
        "017700000001",
        "127.0.0.1.",
        "0127.0.0.1",
        "0",
        "00",
        "0x",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "93.184.0xd7.14",
        "example.0x1",
        "99999999999",
    ],
)
def test_an_address_in_an_odd_spelling_is_refused(host: str) -> None:
    assert refusal(LAB, f"https://{host}/") == "URL_REFUSED"


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{:d}", "{:#x}", "{:#o}", "{:d}.", "{:d}.0", "0.{:d}"]))
@settings(max_examples=200)
def test_nothing_that_inet_aton_takes_gets_by_as_a_name(number: int, spelling: str) -> None:
    host = spelling.format(number).replace("0o", "0")
    assert refusal(PUBLIC, f"https://{host}/") == "URL_REFUSED"


REFUSED = [
    "127.0.0.1",
    "127.255.255.254",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "0.1.2.3",
    "192.0.0.1",
    "192.0.0.9",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::10.0.0.1",
    "64:ff9b:1::5db8:d70e",
    "100::1",
    "2001::1",
    "2001:0:53aa:64c:0:fbff:f5ff:fffe",
    "2001:2::1",
    "2001:db8::1",
    "2002:7f00:1::1",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "5f00::1",
    "fc00::1",
    "fd12:3456::1",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "ff0e::1",
    "4000::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_of_the_public_web_is_refused(address: str) -> None:
    host = f"[{address}]" if ":" in address else address
    assert refusal(PUBLIC, f"https://{host}/") == "URL_REFUSED"
    with pytest.raises(InvalidRequest, match="not one of the public web"):
        PUBLIC.check_addresses("example.org", [address])


@pytest.mark.parametrize(
    "address", ["93.184.215.14", "2606:4700::1111", "2002:5db8:d70e::1", "::ffff:1.1.1.1"]
)
def test_an_address_of_the_public_web_is_taken(address: str) -> None:
    PUBLIC.check_addresses("example.org", [address])
    assert address not in REFUSED


def test_one_bad_address_among_good_ones_refuses_all() -> None:
    with pytest.raises(InvalidRequest, match=r"10\.0\.0\.7"):
        PUBLIC.check_addresses("example.org", ["93.184.215.14", "2606:4700::1111", "10.0.0.7"])


@given(st.ip_addresses(v=4))
@settings(max_examples=100)
def test_an_address_inside_another_is_judged_as_itself(address: IPv4Address) -> None:
    def may(text: str) -> bool:
        try:
            PUBLIC.check_addresses("x", [text])
        except InvalidRequest:
            return False
        return True

    number = int(address)
    high, low = number >> 16, number & 0xFFFF
    verdict = may(str(address))
    for inside in (f"::ffff:{address}", f"64:ff9b::{address}", f"2002:{high:x}:{low:x}::1"):
        assert may(inside) == verdict, inside


def test_an_allowed_network_may_be_asked_and_nothing_else_that_is_not_public() -> None:
    assert LAB.check("https://127.0.0.1/").host == "127.0.0.1"
    assert LAB.check("https://[fd00::1]/").host == "fd00::1"
    LAB.check_addresses("lab", ["127.0.0.5", "::ffff:127.0.0.5"])
    with pytest.raises(InvalidRequest):
        LAB.check_addresses("lab", ["127.0.0.5", "10.0.0.1"])


def test_http_and_other_ports_are_for_the_operator_to_allow() -> None:
    assert WITH_HTTP.check("http://example.org/").port == 80
    assert WITH_HTTP.check("https://example.org:8443/").port == 8443
    assert refusal(WITH_HTTP, "http://example.org:8080/") == "URL_REFUSED"


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/other", "https://example.org/other"),
        ("b?x=1", "https://example.org/a/b?x=1"),
        ("//cdn.example/x", "https://cdn.example/x"),
        ("https://cdn.example:443/x#f", "https://cdn.example/x"),
    ],
)
def test_a_redirect_within_the_public_web_is_followed(location: str, target: str) -> None:
    assert str(PUBLIC.check_redirect(PUBLIC.check("https://example.org/a/disk"), location)) == target


@pytest.mark.parametrize(
    "location",
    [
        "https://169.254.169.254/latest/meta-data",
        "https://127.0.0.1/",
        "https://[::1]/",
        "https://2130706433/",
        "//10.0.0.1/",
        "http://example.org/disk",
        "file:///etc/passwd",
        "https://user@example.org/",
        "https://example.org:22/",
        "https://example.org/\nx",
        "https://[",
        "",
        "https://example.org/" + "a" * MAX_URL,
    ],
)
def test_a_redirect_is_judged_as_if_it_had_been_asked_for_cve_2026_34881(location: str) -> None:
    base = WITH_HTTP.check("https://example.org/a/disk")
    with pytest.raises(InvalidRequest) as refused:
        WITH_HTTP.check_redirect(base, location)
    assert refused.value.reason == "URL_REFUSED"


def test_what_is_shown_of_a_url_has_no_query() -> None:
    checked = PUBLIC.check("https://[2606:4700::1111]/disk?signature=secret")
    assert checked.shown == "https://[2606:4700::1111]/disk"
    assert str(checked) == "https://[2606:4700::1111]/disk?signature=secret"


def read_by_the_client(checked: CheckedUrl) -> tuple[str, str | None, int | None]:
    """Whom aiohttp would ask."""
    url = URL(str(checked), encoded=True)
    return url.scheme, url.raw_host, url.port


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org./a%2Fb/../c;x?y=%2F&z=a+b@c:d",
        "https://[2606:4700::1111]:8443/a",
        "https://93.184.215.14//evil.example/",
        "http://example.org/?@127.0.0.1/",
        "http://example.org:8443?x",
        "https://example.org/@127.0.0.1",
    ],
)
def test_the_client_asks_the_host_that_was_judged(url: str) -> None:
    checked = WITH_HTTP.check(url)
    assert read_by_the_client(checked) == (checked.scheme, checked.host, checked.port)
    sent = URL(str(checked), encoded=True)
    assert (sent.raw_path, sent.raw_query_string) == (checked.path, checked.query)


URL_TEXTS = st.one_of(
    st.text(max_size=60),
    st.text(alphabet="a0.:/?#[]@%x-\\1fF;&=+*!", max_size=30),
)


@given(URL_TEXTS)
@settings(max_examples=400)
def test_whatever_the_text_there_is_a_verdict(text: str) -> None:
    for url in (text, f"https://{text}", f"https://example.org/{text}"):
        with suppress(InvalidRequest):
            checked = PUBLIC.check(url)
            assert PUBLIC.check(str(checked)) == checked
            assert read_by_the_client(checked) == (checked.scheme, checked.host, checked.port)
