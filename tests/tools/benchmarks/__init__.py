"""How fast mail is sent, as ratios within one run. ``tox -e bench``, ``-- --quick``"""
