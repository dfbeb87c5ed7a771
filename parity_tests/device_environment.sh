#!/usr/bin/env bash
# Install the package as a device does (base dependencies + onnxruntime, no PyTorch, no onnx) on Python 3.10 and 3.12,
# where these interpreters exist, and run the commands a device needs on a bundle exported by the development environment.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export CDM_EXPORT_CACHE="$work/cache"

# On the path, or among pyenv's versions; pyenv's shims exist for interpreters that do not run.
find_python() {
    local candidate
    for candidate in "python$1" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$1".*/bin/python; do
        if "$candidate" --version >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
}

check() { # name, interpreter
    "$2" -m venv "$work/$1"
    rm -rf build # setuptools would put files of an earlier build into the wheel
    "$work/$1/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt . onnxruntime
    # From another folder, and isolated, so that the installed package is tested and not the checkout: the tests have
    # folders of the same names beside the script.
    local script=$PWD/parity_tests/device_check.py
    (mkdir "$work/$1/run" && cd "$work/$1/run" && ../bin/python -I "$script" "$work/device.bundle")
}

.venv/bin/cdm-export export --random-weights 0 --model cdm-vits --camera 160x120 --input-size 70 \
    --frames synthetic:2 --quiet -o "$work/device.bundle"
tried=0
for version in 3.10 3.12; do
    python=$(find_python "$version")
    if [ -z "$python" ]; then
        echo "Python $version is not on this machine: not tried"
        continue
    fi
    check "$version" "$python"
    tried=$((tried + 1))
done
if [ "$tried" = 0 ]; then
    echo "the development Python has to do"
    check development .venv/bin/python
fi
