# SPDX-License-Identifier: BSD-3-Clause
"""What the tests of vtpm provider share: its commands, its files, and helpers written for one test."""
import json
import os
import re

from device import contains, read_file, same, write_file

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))
DAY = 24 * 60 * 60


def provider(place, command, *args, **options):
    return place.vtpm("provider", command, *args, "--config", place.config, **options)


def good(place, command, *args, **options):
    """It succeeds; gives what it prints."""
    done = provider(place, command, *args, **options)
    same(done.returncode, 0, "provider %s %s: %s" % (command, args, done.stderr))
    return done.stdout


def bad(place, status, word, command, *args, **options):
    """It fails with STATUS and WORD; gives the message."""
    done = provider(place, command, *args, **options)
    same((done.returncode, done.stdout), (status, ""), "provider %s %s: %s" % (command, args, done.stderr))
    contains(done.stderr, "vtpm provider %s: [%s]" % (command, word))
    return done.stderr


def listed(place):
    """Name: entry, of all."""
    return {entry["name"]: entry for entry in json.loads(good(place, "list", "--json"))["providers"]}


def status_of(place, name, *args):
    return json.loads(good(place, "status", name, "--json", *args))["providers"][0]


def registry(place):
    return os.path.join(place.data_dir, "providers.conf")


def edit_registry(place, pattern, replacement):
    text, count = re.subn(pattern, replacement, read_file(registry(place)).decode(), flags=re.M)
    same(count, 1, pattern)
    write_file(registry(place), text, "w")


def add_helper(place, kind, text):
    """A program vtpm-provider-KIND in a folder of helpers of this place's own."""
    folder = os.path.join(place.folder, "helpers")
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, "vtpm-provider-" + kind)
    write_file(path, text, "w")
    os.chmod(path, 0o755)
    write_file(place.config, "[vtpm]\ninit-wait=2\nhelper-dirs=%s;\n" % folder, "w")


def example():
    """The complete provider of the protocol's page."""
    page = read_file(os.path.join(TOP, "docs", "provider-protocol.md")).decode()
    return re.search(r"^```sh\n(#!/bin/sh\n# vtpm-provider-example .*?)^```", page, re.M | re.S).group(1)


def add_example(place):
    add_helper(place, "example", example())


def add_slow(place, seconds):
    """It as the kind slow: it sleeps before each request."""
    program = example().replace("provider-example", "provider-slow").replace("provider 1 example", "provider 1 slow")
    program, loops = re.subn(r"^while read .*\ndo$", r"\g<0>\n  sleep %g" % seconds, program, flags=re.M)
    same(loops, 1, "the loop of the example")
    add_helper(place, "slow", program)


def key_store(place, name):
    return os.path.join(place.data_dir, "native", listed(place)[name]["uuid"] + ".keys")


def secret_file(name, text):
    write_file(name, text, "w")
    os.chmod(name, 0o600)
    return name
