'use strict';
// Haraka asks Callahead's API for every recipient. See README.md beside the folder of this file.
//
// What Callahead rejects or puts off is answered with its own code and text, what it accepts is accepted, and where the domain is
// not one of its own the next plugin is asked. No answer, or one that can't be understood, puts the recipient off (451):
// this plugin never rejects by itself.

const http = require('node:http');
const https = require('node:https');
const querystring = require('node:querystring');
const DSN = require('haraka-dsn');

// Callahead answers within 30 s, its callout.timeout. Haraka's own bound for this plugin is config/callahead.timeout and has to be longer.
const ANSWERS_WITHIN_MS = 35000;
// A verdict has about 600 octets.
const LONGEST_ANSWER = 65536;

exports.register = function () {
    this.load_callahead_ini();
};

exports.load_callahead_ini = function () {
    // Haraka calls this again when the file changes.
    const ini = this.config.get('callahead.ini', () => this.load_callahead_ini());
    const main = ini.main || {};
    this.server = String(main.server || 'http://127.0.0.1:8080').replace(/\/+$/, '');
    this.token = String(main.token || '');
    if (!this.token) this.logerror('config/callahead.ini has no token: every recipient will be put off');
    const kept = { keepAlive: true, maxSockets: 200, maxFreeSockets: 20 };
    if (this.agent) this.agent.destroy();
    this.agent = this.server.startsWith('https:') ? new https.Agent(kept) : new http.Agent(kept);
};

exports.shutdown = function () {
    if (this.agent) this.agent.destroy();
};

exports.hook_rcpt = function (next, connection, params) {
    // Your own clients may write to whom they like.
    if (!connection.transaction || connection.relaying) return next();

    const recipient = params[0].format().replace(/^<|>$/g, '');
    const putOff = (problem) => {
        connection.transaction?.results.add(this, { err: problem });
        connection.logerror(this, `${recipient} is put off: ${problem}`);
        next(DENYSOFT, DSN.create(451, "Recipients can't be verified now; try again later", 3, 5));
    };
    const answered = (problem, verdict) => {
        const answer = verdict && verdict.answer;
        if (answer && answer.action === 'accept') {
            connection.transaction?.results.add(this, { pass: `row ${verdict.row}` });
            return next(OK);
        }
        if (answer && answer.action === 'none') return next();
        if (answer && answer.text && (answer.action === 'reject' || answer.action === 'defer')) {
            connection.transaction?.results.add(this, { fail: `row ${verdict.row}: ${verdict.reason}` });
            const [, subject, detail] = String(answer.enhanced || '').split('.');
            const reply = DSN.create(answer.code, answer.text, Number(subject), Number(detail));
            // The code says what the reply is, where a domain's reject_code is 450 too.
            return next(answer.code >= 500 ? DENY : DENYSOFT, reply);
        }
        putOff(problem || 'the answer has no action');
    };
    // Where a plugin throws, Haraka asks the next one, and refuses for good what none of them takes.
    try {
        const client = connection.remote?.ip;
        const sender = connection.transaction.mail_from?.format().replace(/^<|>$/g, '');
        this.verdict({ recipient, client, sender }, answered);
    } catch (error) {
        putOff(error.message);
    }
};

// Calls back once, with what was wrong or with the verdict.
exports.verdict = function (asked, done, again) {
    let over = false;
    let request;
    const finish = (problem, verdict) => {
        if (over) return;
        over = true;
        clearTimeout(timer);
        if (problem && request) request.destroy();
        done(problem, verdict);
    };
    const timer = setTimeout(() => finish(`no answer within ${ANSWERS_WITHIN_MS / 1000} s`), ANSWERS_WITHIN_MS);
    // Callahead makes no more callouts for who asks for many recipients that do not exist.
    const query = querystring.stringify({
        ...(asked.client && { client: asked.client }),
        ...(asked.sender !== undefined && { sender: asked.sender }),
    });
    const url = `${this.server}/api/v1/recipients/${encodeURIComponent(asked.recipient)}/verdict?${query}`;
    const options = { agent: this.agent, headers: { Authorization: `Bearer ${this.token}`, Accept: 'application/json' } };
    try {
        request = (this.server.startsWith('https:') ? https : http).get(url, options);
    } catch (error) {
        return finish(error.message);
    }
    request.on('error', (error) => {
        // A kept connection that Callahead had closed in that moment: once more, on another.
        if (!over && !again && request.reusedSocket && error.code === 'ECONNRESET') {
            over = true;
            clearTimeout(timer);
            return this.verdict(asked, done, true);
        }
        finish(error.message);
    });
    request.on('response', (response) => {
        let text = '';
        response.setEncoding('utf8');
        response.on('error', (error) => finish(error.message));
        response.on('aborted', () => finish('the answer broke off'));
        response.on('data', (chunk) => {
            text += chunk;
            if (text.length > LONGEST_ANSWER) finish('the answer is too long');
        });
        response.on('end', () => {
            let said;
            try {
                said = JSON.parse(text);
            } catch {
                return finish(`${this.server} answers ${response.statusCode}, and not in JSON: is that Callahead?`);
            }
            if (response.statusCode !== 200) return finish(`Callahead answers ${response.statusCode}: ${said?.detail}`);
            finish(null, said);
        });
    });
};
