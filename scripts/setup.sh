#!/usr/bin/env bash
# Prepare what `make demo` and `make test` need: the GL libraries, .venv, and the packages in it.
#
#   scripts/setup.sh          what running liftwm needs
#   scripts/setup.sh dev      and what testing it needs
#
# A second call does nothing: .venv/.ready-* remember what was installed. PYTHON=python3.12 chooses an interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

extras=${1:-run}
venv=.venv
ready="$venv/.ready-$extras"
wanted=$(cat pyproject.toml constraints.txt scripts/setup.sh | cksum)

say() { echo "liftwm: $*"; }
fail() { echo "liftwm: error: $*" >&2; exit 2; }

# --- what apt may do for us -------------------------------------------------------------------------------------------
may_use_apt() { command -v apt-get >/dev/null && { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }; }

apt_install() {
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo -n)
    say "installing $* with apt"
    "${as_root[@]}" apt-get update -qq >/dev/null &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# --- an interpreter ---------------------------------------------------------------------------------------------------
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if new_enough "$candidate"; then
            command -v "$candidate"
            return
        fi
    done
    fail "Python 3.11 or newer is needed, ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>/dev/null || echo missing): install" \
        "it, or set PYTHON=/path/to/python3"
}

make_venv() {
    [ -x "$venv/bin/python" ] && new_enough "$venv/bin/python" && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
    local python
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        may_use_apt && apt_install python3-venv || true
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "the venv module of $python is missing: install it (Debian: apt-get install python3-venv)"
    fi
    say "creating $venv with $("$python" --version)"
    "$python" -m venv "$venv"
}

# --- GL: MuJoCo renders over EGL, else OSMesa ---------------------------------------------------------------------------
can_load() { "$venv/bin/python" -c 'import ctypes, sys; ctypes.CDLL(sys.argv[1])' "$1" 2>/dev/null; }
has_egl() { can_load libEGL.so.1 && can_load libGL.so.1; }
has_osmesa() { can_load libOSMesa.so.8 || can_load libOSMesa.so.6 || can_load libOSMesa.so; }

install_gl() {
    { has_egl && has_osmesa; } && return
    if may_use_apt; then # newer releases no longer have libosmesa6: EGL alone is enough
        apt_install libegl1 libgl1 libosmesa6 || apt_install libegl1 libgl1 || say "apt could not install the GL libraries"
    fi
    { has_egl || has_osmesa; } ||
        fail "no GL library to render with: install one (Debian: apt-get install libegl1 libgl1 libosmesa6) and run this again"
}

# MiniWorld's pyglet loads them; the tests of its adapter skip without.
install_glu() {
    { can_load libGLU.so.1 && can_load libfontconfig.so.1; } && return
    may_use_apt && apt_install libglu1-mesa libfontconfig1 || say "no libGLU or libfontconfig: MiniWorld will not start"
}

install_packages() {
    local target=.
    [ "$extras" = run ] || target=".[$extras]"
    say "installing Python packages into $venv; the first time takes some minutes"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt torch==2.13.0
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt -e "$target"
    [ "$extras" != dev ] || { install_mujoco3 && install_lerobot; }
}

# Memory Maze needs dm_control, which does not import beside mujoco 4: tests put this folder in front of the installed packages.
install_mujoco3() {
    rm -rf "$venv/mujoco3"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --target "$venv/mujoco3" \
        mujoco==3.17.0 dm_control==1.0.50 memory-maze==1.0.3 dm-env==1.6 dm-tree==0.1.10 labmaze==1.0.6 lxml gym==0.26.2 gym-notices
}

# LeRobot asks for an older torch: a test reads our exports with its reader, in a process that sees this folder first.
install_lerobot() {
    rm -rf "$venv/lerobot"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --no-deps --target "$venv/lerobot" \
        lerobot==0.4.4 datasets==5.2.0 dill==0.4.1 multiprocess==0.70.19 xxhash==4.1.0 pandas==3.1.1 accelerate==1.15.0
}

for done_before in "$ready" "$venv/.ready-dev"; do
    if [ -f "$done_before" ] && [ "$(cat "$done_before")" = "$wanted" ]; then
        exit 0
    fi
done
make_venv
install_gl
[ "$extras" != dev ] || install_glu
install_packages
echo "$wanted" >"$ready"
say "ready"
