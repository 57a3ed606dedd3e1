dist_man1_MANS = docs/man/vtpm.1 docs/man/vtpm-provider.1 docs/man/vtpm-run.1
dist_man5_MANS = docs/man/vtpm.conf.5
dist_man8_MANS = docs/man/vtpm-helpers.8 docs/man/vtpm-swtpm.8 docs/man/vtpm@.service.8
EXTRA_DIST += docs/architecture.md docs/audit-log.md docs/bench.md docs/control-protocol.md docs/errors.md docs/frontends.md docs/management.md docs/key-providers.md docs/provider-protocol.md docs/security.md docs/state-format.md
EXTRA_DIST += docs/provisioning.md
EXTRA_DIST += docs/libvirt.md
EXTRA_DIST += docs/windows11.md
