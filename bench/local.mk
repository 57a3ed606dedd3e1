# built by make check too: a change that breaks them shall be seen
check_PROGRAMS += bench/floor bench/client bench/create_floor bench/blob_floor bench/fleet bench/nodes
bench_floor_SOURCES = bench/floor.c
bench_floor_LDFLAGS = -Wl,--as-needed $(AM_LDFLAGS)
bench_floor_LDADD = libvtpm-base.a $(TPMS_LIBS)
bench_client_SOURCES = bench/client.c bench/blobs.c bench/blobs.h bench/commands.c bench/commands.h
bench_client_LDADD = libvtpm-base.a $(GLIB_LIBS) $(CRYPTO_LIBS)
bench_create_floor_SOURCES = bench/create_floor.c
bench_create_floor_LDADD = $(VTPM_LIBS)
bench_blob_floor_SOURCES = bench/blob_floor.c
bench_blob_floor_LDADD = $(VTPM_LIBS)
bench_nodes_SOURCES = bench/nodes.c
bench_nodes_LDADD =
bench_fleet_SOURCES = bench/fleet.c
bench_fleet_LDADD = $(STATE_LIBS)
EXTRA_DIST += bench/run bench/clone-run bench/create-run bench/fleet-run bench/nodes-run
CLEANFILES += bench/floor bench/client bench/create_floor bench/blob_floor bench/fleet bench/nodes bench/same-random.so bench/control-times.so

# preloaded, so no part of libtool's or automake's world
bench/same-random.so: bench/same_random.c
	$(AM_V_CCLD)$(CC) -D_GNU_SOURCE $(CFLAGS) -shared -fPIC -o $@ $(srcdir)/bench/same_random.c
bench/control-times.so: bench/control_times.c
	$(AM_V_CCLD)$(CC) -D_GNU_SOURCE $(CFLAGS) -shared -fPIC -o $@ $(srcdir)/bench/control_times.c

bench: vtpm $(helper_PROGRAMS) bench/floor bench/client bench/create_floor bench/blob_floor bench/fleet bench/nodes \
		bench/same-random.so bench/control-times.so
	$(srcdir)/bench/run
	$(srcdir)/bench/create-run
	$(srcdir)/bench/clone-run
	$(srcdir)/bench/fleet-run
	$(TEST_ENV) $(srcdir)/bench/nodes-run
	$(srcdir)/bench/rekey-run
	$(srcdir)/bench/libvirt-run
	$(srcdir)/bench/sandbox-run
	$(srcdir)/bench/blob-run
	$(srcdir)/bench/snapshot-run
.PHONY: bench
EXTRA_DIST += bench/rekey-run bench/sandbox-run bench/blob-run bench/snapshot-run bench/blob_servers.py bench/control_times.c
EXTRA_DIST += bench/libvirt-run bench/same_random.c
