# SPDX-License-Identifier: BSD-3-Clause
"""Images that look like Microsoft's from outside: ISO 9660 and UDF by genisoimage, WIM files of a header and XML.

Nothing of Microsoft's is in them."""
import os
import shutil
import struct
import subprocess

IMAGE = """<IMAGE INDEX="{index}"><NAME>{name}</NAME><WINDOWS><ARCH>{arch}</ARCH><EDITIONID>{edition}</EDITIONID>
<LANGUAGES><LANGUAGE>{language}</LANGUAGE><DEFAULT>{language}</DEFAULT></LANGUAGES>
<VERSION><MAJOR>10</MAJOR><BUILD>{build}</BUILD></VERSION></WINDOWS></IMAGE>"""
XML_AT = 5000


def wim(editions, build=26100, arch=9, language="en-US"):
    """The bytes of a WIM file with these editions, and of nothing that could be installed."""
    images = "".join(IMAGE.format(index=number, name="Windows 11 " + edition, arch=arch, edition=edition, language=language, build=build)
                     for number, edition in enumerate(editions, 1))
    xml = ("\ufeff<WIM>" + images + "</WIM>").encode("utf-16-le")
    header = bytearray(XML_AT)
    header[:8] = b"MSWIM\0\0\0"
    header[72:79] = len(xml).to_bytes(7, "little")
    struct.pack_into("<Q", header, 80, XML_AT)
    return bytes(header) + xml


def make(path, files, efi=True, udf=True):
    """FILES: {name: bytes}."""
    tree = path + ".tree"
    for name, data in {"efisys.bin": bytes(1440 << 10), **files}.items():
        os.makedirs(os.path.dirname(os.path.join(tree, name)), exist_ok=True)
        with open(os.path.join(tree, name), "wb") as file:
            file.write(data)
    subprocess.run(["genisoimage", "-quiet", "-V", "CCCOMA_X64FRE", *(["-udf"] if udf else []), "-o", path,
                    *(["-no-emul-boot", "-e", "efisys.bin"] if efi else []), tree],
                   check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)
    shutil.rmtree(tree)


def windows(path, editions=("Core", "Professional"), **options):
    make(path, {"sources/boot.wim": wim(["PE"]), "sources/install.wim": wim(editions, **options)})
