#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Searches files for pieces of a plaintext: any run of 16 bytes with more than 8 distinct ones.

  canary.py PLAINTEXT PLACE...    PLACE is a file or a folder; exit 0 if nothing is found, 1 if something is
  canary.py --self-test           shows that a planted run is found wherever it stands

A run of 16 bytes covers at least one whole aligned word of 8, so a file is scanned word by word
(sets of integers, at the speed of C) and only words that occur in the plaintext are looked at closely.
"""
import os
import sys

WINDOW = 16
DISTINCT = 8
WORD = 8
CHUNK = 1 << 16


class Canary:
    """The windows of one or more plaintexts."""

    def __init__(self, *plaintexts):
        self.windows = set()
        self.shifts = {}
        for plain in plaintexts:
            self.add(plain)

    def add(self, plain):
        for start in range(len(plain) - WINDOW + 1):
            window = bytes(plain[start:start + WINDOW])
            if window in self.windows or len(set(window)) <= DISTINCT:
                continue
            self.windows.add(window)
            for shift in range(WORD):
                word = int.from_bytes(window[shift:shift + WORD], sys.byteorder)
                self.shifts.setdefault(word, set()).add(shift)

    def leave_out(self, public):
        """PUBLIC may stand anywhere (a certificate, which the plaintext holds too)."""
        for start in range(len(public) - WINDOW + 1):
            self.windows.discard(bytes(public[start:start + WINDOW]))

    def search_bytes(self, data, base=0):
        """The offsets in DATA (counted from BASE) where a window stands, in order."""
        whole = len(data) // WORD * WORD
        words = memoryview(data)[:whole].cast("Q")
        found = set()
        for index in self._suspects(words):
            for shift in self.shifts[words[index]]:
                start = index * WORD - shift
                if start >= 0 and bytes(data[start:start + WINDOW]) in self.windows:
                    found.add(base + start)
        return sorted(found)

    def _suspects(self, words):
        common = self.shifts.keys() & set(words)
        if not common:
            return []
        suspects = [index for index, word in enumerate(words) if word in common]
        last = len(words) - 1
        # a word between two of its like (blank memory, mostly) is in no window: too few distinct bytes
        return [i for i in suspects if i in (0, last) or not words[i - 1] == words[i] == words[i + 1]]

    def search_file(self, path):
        """Offsets in the file at PATH where a window stands. Chunks overlap by a window; each starts word-aligned."""
        found = set()
        overlap = 2 * WINDOW
        blank = bytes(CHUNK + overlap)
        with open(path, "rb") as file:
            base = 0
            tail = b""
            while True:
                chunk = file.read(CHUNK)
                if not chunk:
                    return sorted(found)
                data = tail + chunk
                if data != blank[:len(data)]:
                    found.update(self.search_bytes(data, base))
                tail = data[-overlap:]
                base += len(data) - len(tail)

    def search(self, *places):
        """Searches files and whole folders. Returns (files read, bytes read, [(path, offset), ...])."""
        files = total = 0
        hits = []
        for path in _files(places):
            files += 1
            total += os.path.getsize(path)
            hits += [(path, offset) for offset in self.search_file(path)]
        return files, total, hits


def _files(places):
    for place in places:
        if not os.path.isdir(place):
            yield place
            continue
        for folder, _, names in os.walk(place, onerror=_raise):
            for name in sorted(names):
                path = os.path.join(folder, name)
                if os.path.isfile(path) and not os.path.islink(path):
                    yield path


def _raise(error):
    raise error


def self_test(folder):
    """Raises AssertionError where a planted window is missed or something is found that was not planted."""
    plain = os.urandom(4096) + bytes(300) + b"\0" * 8 + bytes(range(1, 9)) + bytes(64)
    canary = Canary(plain)
    path = os.path.join(folder, "canary-self-test")
    size = 3 * CHUNK + 5
    planted = 0
    spots = [0, size - WINDOW, CHUNK - 1, CHUNK, 2 * CHUNK - 7, 2 * CHUNK + 32, 3 * CHUNK - 16, 3 * CHUNK - 11]
    spots += [1000 + shift for shift in range(WORD)]
    try:
        for filler in (os.urandom(size), bytes(size)):
            _write(path, filler)
            assert canary.search(path)[2] == [], "found something in a file that holds nothing"
            # inside the random part, at its ends, and the one window of the lone half word
            for start in (0, 1, 2077, 4096 - WINDOW, 4096 + 300):
                window = plain[start:start + WINDOW]
                assert window in canary.windows
                for spot in spots:
                    _write(path, filler[:spot] + window + filler[spot + WINDOW:])
                    assert (path, spot) in canary.search(path)[2], f"missed a window at {spot}"
                    planted += 1
        other = bytes([plain[WINDOW - 1] ^ 1])  # zeros behind it would be the sixteenth byte once in 256 times
        _write(path, bytes(64) + plain[:WINDOW - 1] + other + bytes(64))
        assert not canary.search(path)[2], "took 15 bytes for a window"
    finally:
        if os.path.exists(path):
            os.unlink(path)
    return planted


def _write(path, data):
    with open(path, "wb") as file:
        file.write(data)


def main(arguments):
    if arguments == ["--self-test"]:
        import tempfile
        with tempfile.TemporaryDirectory(prefix="vtpm-canary.") as folder:
            print(f"canary: {self_test(folder)} planted windows, all found")
        return 0
    if len(arguments) < 2 or arguments[0].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    with open(arguments[0], "rb") as file:
        canary = Canary(file.read())
    if not canary.windows:
        print("canary: the plaintext has no window to search for", file=sys.stderr)
        return 2
    files, total, hits = canary.search(*arguments[1:])
    for path, offset in hits:
        print(f"{path}: plaintext at offset {offset}")
    print(f"canary: {len(canary.windows)} windows searched in {files} files, {total} bytes: {len(hits)} found")
    return 1 if hits else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
