"""The app of the demo: a view and a management command, both of which send mail."""
