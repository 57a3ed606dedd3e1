#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Whose the sockets of swtpm socket are; each time beside Debian's."""
import os
import stat
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))
from device import main, need_root, same  # noqa: E402
from swtpm import SWTPM, Served, data_at, debian, folder_of  # noqa: E402


def owned_by(path):
    info = os.stat(path)
    return stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid


def unix_sockets(place, ctrl, server):
    """Mode, user and group of both sockets with these words, made by either program under a strict umask."""
    for number, program in enumerate((debian(), SWTPM)):
        names = ["%s-%d" % (name, number) for name in "cd"]
        served = Served(place, folder_of("u-%d" % number), "--ctrl", "type=unixio,path=%s%s" % (names[0], ctrl),
                        "--server", "type=unixio,path=%s%s" % (names[1], server), ctrl=None, program=program,
                        preexec=lambda: os.umask(0o077))
        served.ctrl = names[0]
        data_at(names[1]).close()
        data_at(names[0]).close()
        yield [owned_by(name) for name in names]
        served.shutdown()


def test_mode(place):
    """a Unix socket that nothing is said of is for user and group, whatever the umask: 0770"""
    ours = (0o770, os.geteuid(), os.getegid())
    for found in unix_sockets(place, "", ""):
        same(found, [ours, ours])


def test_owner(place):
    """uid= and gid=, each alone and both, of either Unix socket"""
    need_root()
    for ctrl, server, wanted in (
            (",uid=65534,gid=65533", ",uid=65532", [(0o770, 65534, 65533), (0o770, 65532, 0)]),
            (",gid=65533,mode=0660", ",uid=65531,gid=65530", [(0o660, 0, 65533), (0o770, 65531, 65530)])):
        for found in unix_sockets(place, ctrl, server):
            same(found, wanted, ctrl)


if __name__ == "__main__":
    main(globals())
