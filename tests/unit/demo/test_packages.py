"""Debian mirrors are found in any form that apt's configuration may have."""

from __future__ import annotations

from pathlib import Path

from kingbus_node.demo.packages import AptSource, debian_mirrors, parse_sources, system_mirrors

DEB822 = """\
# what the installer wrote
Types: deb deb-src
URIs: http://mirror.example/debian http://other.example/debian/
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/debian
Suites: trixie
Components: main

Types: deb-src
URIs: http://sources.example/debian
Suites: trixie
Components: main
"""

KEY_BLOCK = """\
Types: deb
URIs: https://mirror.example/debian
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEabc
 # not a comment inside a value, but apt would take it for one
 -----END PGP PUBLIC KEY BLOCK-----
"""

ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb http://mirror.example/debian bookworm main non-free-firmware # comment
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/etc/keys/a.gpg,/etc/keys/b.gpg trusted=yes] https://signed.example/debian/ sid main
deb cdrom:[Debian GNU/Linux 12]/ bookworm main
"""


def test_deb822_stanzas_give_one_source_per_address() -> None:
    sources = parse_sources("debian.sources", DEB822)
    assert [source.uri for source in sources] == [
        "http://mirror.example/debian",
        "http://other.example/debian/",
        "http://mirror.example/debian-security",
    ]
    assert sources[0] == AptSource(
        uri="http://mirror.example/debian",
        suites=("bookworm", "bookworm-updates"),
        components=("main", "contrib"),
        signed_by="/usr/share/keyrings/debian-archive-keyring.gpg",
    )


def test_a_key_block_in_deb822_is_kept_as_it_is() -> None:
    (source,) = parse_sources("debian.sources", KEY_BLOCK)
    assert source.signed_by.strip().startswith("-----BEGIN PGP PUBLIC KEY BLOCK-----\n.\nmDMEabc")


def test_one_line_entries_give_their_options() -> None:
    plain, signed, cdrom = parse_sources("sources.list", ONE_LINE)
    assert plain == AptSource("http://mirror.example/debian", ("bookworm",), ("main", "non-free-firmware"))
    assert signed.signed_by == "/etc/keys/a.gpg /etc/keys/b.gpg"
    assert signed.trusted
    assert cdrom.uri.startswith("cdrom:")


def test_security_archives_cdroms_and_other_publishers_are_no_mirrors() -> None:
    sources = [
        AptSource("http://mirror.example/debian-security", ("bookworm-security",), ("main",)),
        AptSource("cdrom:[Debian]/", ("bookworm",), ("main",)),
        AptSource("https://vendor.example/apt", ("bookworm",), ("vendor-9.7",)),
        AptSource("https://database.example/apt", ("bookworm-pgdg",), ("main",)),
    ]
    assert debian_mirrors(sources) == []


def test_the_archive_with_debians_keyring_comes_before_others_that_have_a_component_main() -> None:
    vendor = AptSource("https://vendor.example/debian/12/prod", ("bookworm",), ("main",), "/etc/keys/vendor.gpg")
    archive = AptSource("http://mirror.example/debian", ("trixie",), ("main",), "/usr/share/debian-archive-keyring.gpg")
    again = AptSource("http://mirror.example/debian/", ("trixie-updates",), ("main",))
    assert debian_mirrors([vendor, again, archive]) == [archive, vendor]


def test_both_formats_of_the_system_are_read(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (tmp_path / "sources.list.d" / "b.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "c.list").write_text("deb http://c.example/debian sid main\n")
    assert {source.uri for source in system_mirrors(tmp_path, {})} == {
        "http://a.example/debian",
        "http://c.example/debian",
        "http://mirror.example/debian",
        "http://other.example/debian/",
    }


def test_the_environment_names_the_only_mirror_to_use(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://a.example/debian bookworm main\n")
    (mirror,) = system_mirrors(tmp_path, {"KINGBUS_DEBIAN_MIRROR": "http://mine.example/debian"})
    assert mirror.uri == "http://mine.example/debian"


def test_a_system_without_apt_has_no_mirror(tmp_path: Path) -> None:
    assert system_mirrors(tmp_path / "nothing", {}) == []
