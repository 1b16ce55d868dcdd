// A headless Chromium, driven over its debugging pipe: messages are JSON, each ended by a zero byte.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { findProgram, ScriptError } from './run.mjs'

const names = ['chromium', 'chromium-browser', 'google-chrome-stable', 'google-chrome']
const flags = [
  '--headless',
  '--remote-debugging-pipe',
  // A container has neither; nothing but files of this project is opened.
  '--no-sandbox',
  '--disable-dev-shm-usage',
  '--disable-gpu',
  '--disable-background-networking',
  '--hide-scrollbars',
  '--no-first-run',
]
const ANSWER_MS = 60_000
const CLOSE_MS = 10_000

/** The path of a Chromium; undefined if there is none. POLYLORA_CHROMIUM names another than those on the PATH. */
export function findChromium() {
  const { POLYLORA_CHROMIUM: given } = process.env
  return (given ? [given] : names).map(findProgram).find((path) => path !== undefined)
}

/** Close it, or the process stays. */
export class Browser {
  #child
  #folder
  #waiting = new Map()
  #listeners = new Set()
  #lastId = 0
  #ended = null

  /** @param {string} path of a Chromium */
  constructor(path) {
    this.#folder = mkdtempSync(join(tmpdir(), 'polylora-browser-'))
    this.#child = spawn(path, [...flags, `--user-data-dir=${this.#folder}`, 'about:blank'], {
      stdio: ['ignore', 'ignore', 'ignore', 'pipe', 'pipe'],
    })
    this.#ended = new Promise((done) => {
      const end = (why) => {
        for (const { reject } of this.#waiting.values()) reject(new ScriptError(why))
        this.#waiting.clear()
        done()
      }
      this.#child.on('error', (error) => end(`${path} could not be started: ${error.message}`))
      this.#child.on('exit', (code) => end(`${path} ended (exit code ${code})`))
    })
    // A browser that has ended takes no more; what waits for an answer says so.
    this.#child.stdio[3].on('error', () => undefined)
    let rest = ''
    this.#child.stdio[4].setEncoding('utf8')
    this.#child.stdio[4].on('data', (text) => {
      const messages = (rest + text).split('\0')
      rest = messages.pop()
      for (const message of messages) this.#receive(JSON.parse(message))
    })
  }

  #receive({ id, method, result, error, sessionId }) {
    if (id === undefined) {
      for (const listener of this.#listeners) listener(method, sessionId)
      return
    }
    const { resolve, reject } = this.#waiting.get(id)
    this.#waiting.delete(id)
    if (error) reject(new ScriptError(`the browser refused: ${error.message}`))
    else resolve(result)
  }

  #send(method, params = {}, sessionId = undefined) {
    const id = ++this.#lastId
    return new Promise((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new ScriptError(`the browser did not answer ${method}`)),
        ANSWER_MS,
      )
      const settle = (then) => (value) => {
        clearTimeout(timer)
        then(value)
      }
      this.#waiting.set(id, { resolve: settle(resolve), reject: settle(reject) })
      this.#child.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`)
    })
  }

  /**
   * Opens a file in a window of this width.
   *
   * @param {string} file
   * @param {{ width: number, scheme: 'light' | 'dark', scale?: number }} view `scale`: pixels of a picture by a pixel of the page
   */
  async open(file, { width, scheme, scale = 1 }) {
    const { targetId } = await this.#send('Target.createTarget', { url: 'about:blank' })
    const { sessionId } = await this.#send('Target.attachToTarget', { targetId, flatten: true })
    const send = (method, params) => this.#send(method, params, sessionId)
    await send('Page.enable')
    const screen = { width, height: 800, deviceScaleFactor: scale, mobile: false }
    await send('Emulation.setDeviceMetricsOverride', screen)
    await send('Emulation.setEmulatedMedia', {
      features: [{ name: 'prefers-color-scheme', value: scheme }],
    })
    const loaded = new Promise((done) => {
      const listener = (method, session) => {
        if (method !== 'Page.loadEventFired' || session !== sessionId) return
        this.#listeners.delete(listener)
        done()
      }
      this.#listeners.add(listener)
    })
    await send('Page.navigate', { url: pathToFileURL(resolve(file)).href })
    await loaded
    return {
      /** The value of a JavaScript expression, as JSON carries it. */
      evaluate: async (expression) => {
        const { result, exceptionDetails } = await send('Runtime.evaluate', {
          expression,
          returnByValue: true,
        })
        if (exceptionDetails) throw new Error(exceptionDetails.exception?.description)
        return result.value
      },
      /** A PNG of a part of the page. */
      picture: async (clip) => {
        const { data } = await send('Page.captureScreenshot', {
          clip: { ...clip, scale: 1 },
          captureBeyondViewport: true,
        })
        return Buffer.from(data, 'base64')
      },
      close: () => this.#send('Target.closeTarget', { targetId }),
    }
  }

  async close() {
    const late = setTimeout(() => this.#child.kill('SIGKILL'), CLOSE_MS)
    // It may be gone already, or end before it answers.
    this.#send('Browser.close').catch(() => undefined)
    await this.#ended
    clearTimeout(late)
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 10 })
  }
}
