"""Trackers whose library runs in a process of its own."""
