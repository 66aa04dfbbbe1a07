# Sourced by the scripts beside it. Makes .venv with the system's Python once and installs what a script needs;
# a warm run installs nothing, because a stamp in .venv remembers for which pyproject.toml it was filled.
#
#   venv_ready demo    the package, with the faster loop and compression where they can be had
#   venv_ready dev     the package with everything that tests, checks and benchmarks use

python_of_the_system() {
    for candidate in python3.13 python3.12 python3.11 python3; do
        # Run it: a name on PATH may be a shim of a version manager that has no such version.
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
                command -v "$candidate"
                return 0
            fi
            without_venv="$candidate"
        fi
    done
    if [ -n "${without_venv:-}" ]; then
        echo "$without_venv has no venv module; install it (on Debian and Ubuntu: the package python3-venv)" >&2
    else
        echo "no Python 3.11 or newer on PATH (looked for python3.13, python3.12, python3.11, python3); install one" >&2
    fi
    return 1
}

venv_ready() {
    wanted="$1"
    stamp="$(pwd) $(cksum <pyproject.toml)"
    if [ -d .venv ] && ! .venv/bin/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
        echo ".venv has no working Python 3.11 or newer; remove that directory and run this again" >&2
        return 1
    fi
    if [ ! -d .venv ]; then
        system_python="$(python_of_the_system)" || return 1
        echo "making .venv with $system_python" >&2
        "$system_python" -m venv .venv || { echo "could not make .venv; is the directory writable?" >&2; return 1; }
    fi
    for filled in "$wanted" dev; do
        if [ "$(cat ".venv/.filled-$filled" 2>/dev/null)" = "$stamp" ]; then
            return 0
        fi
    done
    echo "installing into .venv (once)" >&2
    case "$wanted" in
        # The faster parts are optional: a platform without wheels for them runs the demo all the same.
        demo) install -e '.[fast]' 2>/dev/null || install -e . ;;
        dev) install -e '.[dev]' ;;
    esac || { echo "the installation failed: is a package index within reach?" >&2; return 1; }
    echo "$stamp" >".venv/.filled-$wanted"
}

install() {
    .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check "$@"
}
