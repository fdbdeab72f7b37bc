// Asking a model for an answer, token by token; one that is busy is asked again.
import { stream } from "./lib.js";

/** The seed to ask with, so that answer number `answers` is drawn as `hrm chat` draws it; the server counts the answers
 * that it is shown. */
export const seedOf = (seed, answers, said) =>
  (seed + 1000003 * Math.max(0, answers - said.filter(message => message.role === "assistant").length)) % Number.MAX_SAFE_INTEGER;

/** Write what follows `said` with these settings. `onToken` gets [text, depth, confidence, log-probability, entropy];
 * `onWait` the seconds until a busy server is asked again, then null. Returns why the answer ends. */
export async function write({ model, said, settings, seed, onToken, onWait, signal }) {
  const body = {
    model, seed, stream: true, logprobs: true,
    messages: said.map(({ role, content }) => ({ role, content })),
    mode: settings.mode, temperature: settings.temperature, top_p: settings.topP, max_tokens: settings.length,
    natural: settings.ends,
  };
  let end = null;
  for (;;) {
    try {
      await stream("/v1/chat/completions", body, event => {
        const choice = event.choices?.[0];
        if (!choice) return;
        const tokens = choice.logprobs?.content ?? [];
        for (const token of tokens) onToken([token.token, token.depth, token.confidence, token.logprob, token.entropy ?? -1]);
        if (!tokens.length && choice.delta?.content) onToken([choice.delta.content, 0, 0, 0, -1]);
        end = choice.end ?? choice.finish_reason ?? end;
      }, signal);
      if (end === null) throw new Error("The answer was cut off: the studio does not answer any more.");
      return end;
    } catch (error) {
      if (error instanceof TypeError) throw new Error("The studio does not answer any more: start hrm studio again.");
      if (error.status !== 429) throw error;
      await wait(Math.min(30, error.retryAfter ?? 3), onWait, signal);
    }
  }
}

async function wait(seconds, onWait, signal) {
  for (let left = seconds; left > 0; left--) {
    onWait(left);
    await new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, 1000);
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(new DOMException("stopped", "AbortError"));
      }, { once: true });
    });
  }
  onWait(null);
}
