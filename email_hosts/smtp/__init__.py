"""SMTP over smtplib: knows neither Django's settings nor its messages."""
