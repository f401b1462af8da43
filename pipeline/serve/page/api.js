// Requests to the service: two at a time; a full queue is tried again when it says so.
const TOGETHER = 2, TRIES = 20;
const waiting = [];
let running = 0, token = sessionStorage.getItem("token") || "";

class Refused extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const headers = () => (token ? {Authorization: `Bearer ${token}`} : {});
const pause = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

async function call(path, options = {}) {
  for (let tries = 1; ; tries++) {
    let answer;
    try {
      answer = await fetch(path, {...options, headers: {...headers(), ...options.headers}});
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("offline", "the service does not answer; is it still running?");
    }
    if (answer.ok) return answer;
    if (answer.status === 503 && tries < TRIES) {
      await pause(Math.min(Number(answer.headers.get("Retry-After")) || 1, 10));
      continue;
    }
    const {code, message} = await answer.json().catch(() => ({code: "http", message: `the service answered ${answer.status}`}));
    if (code === "token") askForToken();
    throw new Refused(code, message);
  }
}

// Posts a picture when it is its turn. `options` are those of /v1/cutout.
function cut(file, options, signal) {
  return new Promise((done, fail) => {
    waiting.push(() => {
      const query = new URLSearchParams(options);
      const request = {method: "POST", body: file, signal, headers: {"Content-Type": "application/octet-stream"}};
      return call(`/v1/cutout?${query}`, request).then(done, fail);
    });
    next();
  });
}

function next() {
  while (running < TOGETHER && waiting.length) {
    running++;
    waiting.shift()().finally(() => { running--; next(); });
  }
}

function askForToken() {
  at("token").hidden = false;
  at("token-text").focus();
}

const blobOf = ({type, base64}) => new Blob([Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0))], {type});
