#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What an operator gets wrong at 3 a.m.: each message names the object, the cause and the next step,
and nothing is left behind. VTPM names the program."""
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

VTPM = os.path.abspath(os.environ.get("VTPM", "./vtpm"))
UUID = "7d444840-9dc0-41d1-b245-5ffdce74fad2"
LIMIT = 100 * 1024  # less than a state file


class Host:
    """A folder with a provider and a state file in it."""

    def __init__(self, folder):
        self.folder = folder
        self.config = os.path.join(folder, "vtpm.conf")
        self.env = dict(os.environ, VTPM_DATA_DIR=os.path.join(folder, "data"), HOME=folder, LC_ALL="C")
        with open(self.config, "x", encoding="ascii"):
            pass
        assert self.run("create", "vm.vtpm").returncode == 0

    def run(self, *args, **options):
        options.setdefault("env", self.env)
        if args[0] != "destroy":
            args += ("--config", self.config)
        return subprocess.run([VTPM, *args], capture_output=True, text=True, timeout=60, check=False, cwd=self.folder,
                              stdin=subprocess.DEVNULL, **options)


def says(done, status, *texts):
    """One line that has all of TEXTS."""
    assert done.returncode == status, (done.returncode, done.stderr)
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    for text in texts:
        assert text in lines[0], (text, done.stderr)


def test_wrong_name(host):
    """a wrong name: the next step comes last"""
    for command in (["inspect"], ["check"], ["destroy", "--yes"], ["run", "--ctrl", "unix:sock"]):
        done = host.run(*command, "none.vtpm")
        says(done, 3, "[state-missing]", "none.vtpm", "restore it")
        assert done.stderr.endswith("'vtpm create'\n"), done.stderr


def test_folder(host):
    """a folder, and one that is not there"""
    for command in (["inspect"], ["check"], ["destroy", "--yes"], ["run", "--ctrl", "unix:sock"]):
        says(host.run(*command, "data"), 2, "[usage] data is neither a regular file nor a block device", "name a state file")
    says(host.run("create", "none/vm.vtpm"), 2, "[usage]", "no folder none", "make it first")


def test_file_size_limit(host):
    """a limit on file sizes (ulimit -f): told, and nothing is left behind"""
    before = sorted(os.listdir(host.folder))
    done = host.run("create", "other.vtpm",
                    preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT)))
    says(done, 1, "[store-full]", "other.vtpm")
    assert sorted(os.listdir(host.folder)) == before


def test_create_without_a_socket(host):
    """run --create that cannot have its socket, pid file or log makes no TPM, and no half of one"""
    before = sorted(os.listdir(host.folder))
    for wrong in (["--ctrl", "unix:none/sock"], ["--ctrl", "unix:sock", "--data", "unix:none/data"],
                  ["--ctrl", "unix:sock", "--pid-file", "none/pid"], ["--ctrl", "unix:sock", "--log", "none/log"]):
        for _ in range(5):
            done = host.run("run", "new.vtpm", "--create", *wrong)
            assert done.returncode == 1 and " none/" in done.stderr, done.stderr
    time.sleep(0.2)
    assert sorted(os.listdir(host.folder)) == before, os.listdir(host.folder)


def test_config_typing_mistakes(host):
    """a typing mistake in vtpm.conf, in each command that reads it"""
    for text, cause in (("[vtpm]\ninit-wiat=3\n", "'init-wiat'"), ("[vtmp]\ninit-wait=3\n", "[vtmp]"),
                        ("init-wait=3\n", "group"), ("[vtpm]\ninit-wait=3s\n", "'init-wait'")):
        with open(host.config, "w", encoding="ascii") as file:
            file.write(text)
        for command in (["inspect", "vm.vtpm"], ["check", "vm.vtpm"], ["create", "b.vtpm"],
                        ["run", "vm.vtpm", "--ctrl", "unix:sock"]):
            done = host.run(*command)
            says(done, 2, "[usage] " + host.config, cause, "see vtpm.conf(5)")
            assert "the line named" not in done.stderr
    assert not os.path.exists(os.path.join(host.folder, "b.vtpm"))


def test_restored_without_its_keys(host):
    """restored on another host: which provider is missing, and where to read how to bring it"""
    shutil.move(os.path.join(host.folder, "data"), os.path.join(host.folder, "old"))
    says(host.run("check", "vm.vtpm"), 4, "[provider-unknown]", "--kind KIND --uuid ", "see vtpm.conf(5)")
    # what that page says: its key file, and its group of providers.conf
    with open(os.path.join(host.folder, "old", "providers.conf"), encoding="ascii") as file:
        group = file.read().split("\n\n")[0]
    assert group.startswith("[provider "), group
    os.mkdir(os.path.join(host.folder, "data"))
    shutil.copytree(os.path.join(host.folder, "old", "native"), os.path.join(host.folder, "data", "native"))
    with open(os.path.join(host.folder, "data", "providers.conf"), "x", encoding="ascii") as file:
        file.write(group + "\n")
    done = host.run("check", "vm.vtpm")
    assert done.returncode == 0, done.stderr


def test_damaged_provider_list(host):
    """a list of providers that does not parse: inspect does not call its providers unknown"""
    with open(os.path.join(host.folder, "data", "providers.conf"), "a", encoding="ascii") as file:
        file.write("nonsense\n")
    done = host.run("inspect", "vm.vtpm")
    assert done.returncode == 0 and "name not read" in done.stdout, done.stdout
    assert "nonsense" in done.stderr, done.stderr
    says(host.run("check", "vm.vtpm"), 3, "[state-damaged]", "data/providers.conf does not parse: ", "nonsense")


def main():
    tests = [function for name, function in globals().items() if name.startswith("test_")]
    print(f"1..{len(tests)}", flush=True)
    failed = False
    for number, function in enumerate(tests, 1):
        with tempfile.TemporaryDirectory(prefix="vtpm-mistakes-") as folder:
            try:
                function(Host(folder))
                print(f"ok {number} - {function.__doc__}", flush=True)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                failed = True
                print(f"not ok {number} - {function.__doc__}\n# {error!r}"[:4000], flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
