"""How fast mail is sent, as ratios within one run. ``tox -e bench``, ``-- --quick``

``sink`` is an SMTP server in a process of its own, with a relay in front of it that holds
all bytes back for a while, as a distance does. ``ways`` are the ways to send that are
compared, ``__main__`` runs them in turns and prints the table.

``growth`` compares few with many: hosts, kept connections.
"""
