"""OAuth 2.0: where the tokens come from that an SMTP host logs in with."""
