"""Imported by the server last: what it holds by then is left alone by the collector, in it and in all its forks.

A collection writes to every object that it looks at, and a fork would have to copy each page of memory on which one
lies: about a twentieth of the time of a run that takes a second.
"""

import atexit
import gc

gc.collect()
gc.freeze()
atexit.register(gc.unfreeze)  # libraries that look for their leaks at the end find none then
