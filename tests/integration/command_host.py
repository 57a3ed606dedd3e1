# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of vtpm's commands on a file share: a host of their own, bytes in a file, TAP."""
import contextlib
import fcntl
import json
import os
import re
import subprocess
import sys
import tempfile

VTPM = os.path.abspath(os.environ.get("VTPM", "./vtpm"))
UUID_A = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
UUID_B = "00112233-4455-6677-8899-aabbccddeeff"
SIZE = 640 * 1024
HEADER = (0, 64 * 1024)
SLOT = (128 * 1024, 384 * 1024)
NOBODY = 65534
FAKE = """#!/bin/sh
mode=${2#mode=}
echo "vtpm-provider 1 fake $1 wrap unwrap"
while read -r op vtpm a b c d; do
  case $mode-$op in
    plain-wrap) echo "ok fake-key 1 $b" ;;
    plain-unwrap) echo "ok $d" ;;
    *) echo error "$mode" as it was told ;;
  esac
done
"""


class Host:
    """Providers, configuration and state files of their own."""

    def __init__(self, folder):
        self.folder = folder
        self.data = os.path.join(folder, "data")
        self.config = os.path.join(folder, "vtpm.conf")
        helpers = os.path.join(folder, "helpers")
        os.mkdir(helpers)
        os.mkdir(os.path.join(folder, "states"))
        with open(self.config, "x", encoding="ascii") as file:
            file.write(f"[vtpm]\nhelper-dirs={helpers};\n")
        fake = os.path.join(helpers, "vtpm-provider-fake")
        with open(fake, "x", encoding="ascii") as file:
            file.write(FAKE)
        os.chmod(fake, 0o755)
        self.env = dict(os.environ, VTPM_DATA_DIR=self.data, HOME=folder,
                        VTPM_LIBEXEC_DIR=os.environ.get("VTPM_LIBEXEC_DIR", os.path.dirname(VTPM)), LC_ALL="C")

    def path(self, name="vm.vtpm"):
        return os.path.join(self.folder, "states", name)

    def run(self, *args, **options):
        options.setdefault("env", self.env)
        options.setdefault("stdin", subprocess.DEVNULL)
        if args and args[0] in ("create", "inspect", "check") and "--config" not in args:
            args += ("--config", self.config)  # never the host's own
        return subprocess.run([VTPM, *args], capture_output=True, text=True, timeout=60, check=False, **options)

    def create(self, name="vm.vtpm", *args):
        done = self.run("create", self.path(name), "--ek", "none", *args)  # most of a create's time are keys
        assert done.returncode == 0, done.stderr
        return self.path(name)

    def check(self, path, **options):
        return self.run("check", path, **options)

    def inspect(self, path):
        done = self.run("inspect", "--json", path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def states(self):
        return sorted(os.listdir(os.path.join(self.folder, "states")))

    def add_provider(self, uuid, name, mode):
        with open(os.path.join(self.data, "providers.conf"), "a", encoding="ascii") as file:
            file.write(f"\n[provider {uuid}]\nname={name}\nkind=fake\noptions=mode={mode};\n")


def fails(done, status, word):
    """Exit status, and one line that starts with the program and the word."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if f"[{word}]" in line]
    assert lines, done.stderr
    assert re.match(r"vtpm [a-z]+: \[", lines[0]), lines[0]


def content(path):
    with open(path, "rb") as file:
        return file.read()


def write(path, offset, data):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path, offset):
    write(path, offset, bytes([content(path)[offset] ^ 0x40]))


def make(path, data):
    with open(path, "xb") as file:
        file.write(data)
    return path


@contextlib.contextmanager
def locked(path, byte):
    with open(path, "r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, byte)
        yield


def words(view):
    return [problem["word"] for problem in view["problems"]]


def main(namespace):
    """Runs every test_... of NAMESPACE."""
    tests = [function for name, function in namespace.items() if name.startswith("test_")]
    print(f"1..{len(tests)}", flush=True)
    failed = False
    for number, function in enumerate(tests, 1):
        title = f"{number} - {function.__doc__}"
        with tempfile.TemporaryDirectory(prefix="vtpm-commands-") as folder:
            try:
                skip = function(Host(folder))
                print(f"ok {title} # SKIP {skip}" if skip else f"ok {title}", flush=True)
            except (AssertionError, OSError, ValueError, KeyError, IndexError, subprocess.SubprocessError) as error:
                failed = True
                where = error.__traceback__
                while where.tb_next:
                    where = where.tb_next
                print(f"not ok {title}\n# line {where.tb_lineno}: {error!r}"[:4000], flush=True)
    sys.exit(1 if failed else 0)
