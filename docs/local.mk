EXTRA_DIST += docs/bench.md docs/control-protocol.md docs/errors.md docs/provider-protocol.md
