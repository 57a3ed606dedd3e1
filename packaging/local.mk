# The Debian package, and what it has that make install has not.
EXTRA_DIST += packaging/apparmor packaging/changelog packaging/control packaging/make-deb packaging/postinst packaging/postrm \
	packaging/preinst packaging/prerm packaging/states packaging/users packaging/tmpfiles packaging/vtpm.conf \
	packaging/vtpm@.service packaging/vtpm@.socket

# A build of its own, for the places of a host are compiled in. Leaves deb/vtpm_VERSION_ARCH.deb.
deb:
	+$(srcdir)/packaging/make-deb $(abs_builddir)/deb
.PHONY: deb

# It is built by itself, with flags of its own: sanitizers would tell nothing of it.
if !SANITIZERS
tap_needs += deb
endif

# The units, under systemd as the first process of a guest.
tap_cases += tests/integration/test_systemd.py
EXTRA_DIST += tests/integration/systemd_guest.py qemu/init-systemd
