"""What all tests share."""

import signal

from hypothesis import HealthCheck, settings

# A shell starts what it puts in the background with Ctrl-C ignored, and children inherit that: the
# tests that interrupt a command would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes to be drawn and to run depends on who else uses the machine.
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")
