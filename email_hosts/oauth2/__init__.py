"""OAuth 2.0: gets the tokens with which an SMTP host logs in."""
