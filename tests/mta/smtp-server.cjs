// A server made with nodemailer's smtp-server, on 127.0.0.1, with STARTTLS and login, neither
// required. Arguments: port, user name, password. Where it is started, it finds
// certificate.pem, and adds a line of JSON to messages for each message that it accepts.
"use strict"

const { appendFileSync, readFileSync } = require("fs")
const { SMTPServer } = require("smtp-server")

const [port, username, password] = process.argv.slice(2)
const pem = readFileSync("certificate.pem")

new SMTPServer({
  key: pem,
  cert: pem,
  authOptional: true,
  disableReverseLookup: true,
  onAuth: (login, session, done) =>
    login.username === username && login.password === password
      ? done(null, { user: username })
      : done(new Error("no such login")),
  onData: (stream, { envelope }, done) => {
    const chunks = []
    stream.on("data", (chunk) => chunks.push(chunk))
    stream.on("end", () => {
      const message = {
        sender: envelope.mailFrom.address,
        recipients: envelope.rcptTo.map(({ address }) => address),
        content: Buffer.concat(chunks).toString("base64"),
      }
      appendFileSync("messages", JSON.stringify(message) + "\n")
      done()
    })
  },
}).listen(Number(port), "127.0.0.1")
