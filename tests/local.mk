# Unit tests: one program a source file, GLib's test framework, TAP.
tap_programs += tests/unit/test-base
tests_unit_test_base_SOURCES = tests/unit/test-base.c
tests_unit_test_base_LDADD = $(STATE_LIBS)

tap_programs += tests/unit/test-errors
tests_unit_test_errors_SOURCES = tests/unit/test-errors.c
tests_unit_test_errors_LDADD = $(STATE_LIBS)

tap_programs += tests/crash/test-crash
tests_crash_test_crash_SOURCES = tests/crash/test-crash.c tests/crash/disk.c tests/crash/disk.h
tests_crash_test_crash_LDADD = $(STATE_LIBS)

check_PROGRAMS += $(tap_programs) tests/plainstate
tests_plainstate_SOURCES = tests/plainstate.c
tests_plainstate_LDADD = $(VTPM_LIBS)

EXTRA_DIST += tests/run-tap $(tap_cases)
