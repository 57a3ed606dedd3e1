#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""The manual is whole: a page for every program, unit and file, in it every command and option that the program's own
help names, every key of vtpm.conf and every error word's exit status; and every page is well formed."""
import glob
import os
import re
import shutil
import subprocess

from device import VTPM, Skip, main, same, true

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
MAN = os.path.join(TOP, "docs", "man")
COMPAT = os.path.join(os.path.dirname(VTPM), "swtpm-compat")


def page(name):
    """Its text as mandoc shows it, without overstriking; one line a paragraph."""
    if not shutil.which("mandoc"):
        raise Skip("mandoc is not installed")
    done = subprocess.run(["mandoc", "-T", "utf8", "-O", "width=200", os.path.join(MAN, name)], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, check=True, timeout=60)
    return re.sub(r".\x08", "", done.stdout.decode()).replace("‐", "-").replace("−", "-")


def help_of(*line):
    done = subprocess.run([*line, "--help"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=60, check=False)
    same(done.returncode, 0, "%r said %s" % (line, done.stdout))
    return done.stdout


def options(text):
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z0-9_-]+)", text)) - {"--help"}


def lacking(wanted, text):
    return sorted(word for word in wanted if not re.search(re.escape(word) + r"(?![\w-])", text))


def test_commands(_place):
    """Each command of vtpm, with its options, is in the manual"""
    text = page("vtpm.1") + page("vtpm-run.1") + page("vtpm-provider.1")
    commands = set(re.findall(r"^  ([a-z]+) ", help_of(VTPM), re.M)) - {"help"}
    true(len(commands) > 10, "the help names %r only" % commands)
    missing = {}
    for command in commands:
        said = help_of(VTPM, command)
        own = page("vtpm-run.1") if command == "run" else text
        lack = lacking(options(said) | {command}, own)
        for verb in re.findall(r"^  ([a-z]+) ", said, re.M):
            lack += lacking(options(help_of(VTPM, command, verb)), own)
        if lack:
            missing[command] = lack
    same(missing, {}, "not in the manual")


def test_compat(_place):
    """Each option of the programs with swtpm's names is in vtpm-swtpm(8)"""
    text = page("vtpm-swtpm.8")
    missing = {}
    for line in (("swtpm", "socket"), ("swtpm", "cuse"), ("swtpm", "chardev"), ("swtpm_setup",), ("swtpm_ioctl",)):
        lack = lacking(options(help_of(os.path.join(COMPAT, line[0]), *line[1:])), text)
        if lack:
            missing[line] = lack
    same(missing, {}, "not in the manual")


def test_keys(_place):
    """Each key that vtpm.conf may have is in vtpm.conf(5), and those of the package's file are known"""
    with open(os.path.join(TOP, "src", "config.c"), encoding="utf-8") as file:
        keys = re.findall(r'^#define KEY_\w+ "([\w-]+)"', file.read(), re.M)
    text = page("vtpm.conf.5")
    same([key for key in keys if not re.search(r"^ +%s=" % key, text, re.M)], [])
    with open(os.path.join(TOP, "packaging", "vtpm.conf"), encoding="utf-8") as file:
        shipped = re.findall(r"^#?([\w-]+)=", file.read(), re.M)
    true(shipped and set(shipped) <= set(keys), shipped)


def test_helpers(_place):
    """Each helper program is in vtpm-helpers(8)"""
    with open(os.path.join(TOP, "src", "local.mk"), encoding="utf-8") as file:
        helpers = re.findall(r"\bvtpm-(?:provider|ca)-[a-z0-9-]+", " ".join(re.findall(r"^helper_PROGRAMS \+= (.*)$", file.read(), re.M)))
    same(lacking(set(helpers), page("vtpm-helpers.8")), [])


def test_units(_place):
    """vtpm@.service(8) says the units' places as the units have them"""
    text = page("vtpm@.service.8")
    for name, pattern in (("vtpm@.socket", r"^ListenStream=(.*)$"), ("vtpm@.service", r"^EnvironmentFile=-(.*)$"),
                          ("vtpm@.service", r"^ExecStart=\S+ run (\S+)")):
        with open(os.path.join(TOP, "packaging", name), encoding="utf-8") as file:
            place = re.search(pattern, file.read(), re.M).group(1)
        true(place.replace("%i", "NAME") in text, place)


def test_links(_place):
    """What a page sends to see is a page of ours, or one that others have; every page is installed"""
    others = {"swtpm(8)", "qemu(1)", "systemd.unit(5)", "systemd.socket(5)", "systemd.exec(5)", "apparmor(7)",
              "libvirtd(8)", "sd_notify(3)", "sd_listen_fds(3)", "dpkg-divert(1)", "p11-kit(8)", "crypttab(5)"}
    ours = {re.sub(r"^(.*)\.(\d)$", r"\1(\2)", os.path.basename(path)) for path in glob.glob(MAN + "/*.[0-9]")}
    for path in glob.glob(MAN + "/*.[0-9]"):
        with open(path, encoding="utf-8") as file:
            named = {"%s(%s)" % found for found in re.findall(r"^\.Xr (\S+) (\d)", file.read(), re.M)}
        same(named - ours - others, set(), path)
    with open(os.path.join(TOP, "docs", "local.mk"), encoding="utf-8") as file:
        installed = set(re.findall(r"docs/man/(\S+)", file.read()))
    same(installed, {os.path.basename(path) for path in glob.glob(MAN + "/*.[0-9]")})


if __name__ == "__main__":
    main(globals())
