"""The unit under a real systemd, in a container that debootstrap makes; only where TOLLGATE_NSPAWN=1 asks for it."""

import os

import harness

suite = harness.Suite("nspawn")
if os.environ.get("TOLLGATE_NSPAWN") != "1":
    suite.skip("the unit under a real systemd", "asked for by TOLLGATE_NSPAWN=1")
    suite.finish()
