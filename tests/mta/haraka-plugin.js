// A plugin of Haraka: takes any recipient, and keeps messages as smtp-server.cjs does.
"use strict"

const { appendFileSync } = require("fs")

// Do not ask the DNS.
exports.hook_lookup_rdns = (next) => next(OK, "localhost")

exports.hook_rcpt = (next) => next(OK)

exports.hook_queue = exports.hook_queue_outbound = (next, { transaction }) =>
  transaction.message_stream.get_data((content) => {
    const message = {
      sender: transaction.mail_from.address,
      recipients: transaction.rcpt_to.map(({ address }) => address),
      content: content.toString("base64"),
    }
    appendFileSync(`${process.env.HARAKA}/messages`, JSON.stringify(message) + "\n")
    // As long as a queue on a disk takes, or the next server: what a client has written
    // ahead is there before the reply.
    setTimeout(next, 5, OK)
  })
