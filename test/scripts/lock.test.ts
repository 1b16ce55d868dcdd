import assert from 'node:assert/strict'
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readFileSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, it } from 'mocha'
import { isStale, processIdentity, withLock } from '../../scripts/lock.mjs'

describe('scripts/lock', () => {
  let folder: string
  let path: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-lock-'))
    path = join(folder, 'lock')
  })
  afterEach(() => {
    rmSync(folder, { recursive: true })
  })

  const hold = (...holders: { pid: number; identity: string | null }[]) => {
    writeFileSync(path, JSON.stringify({ holders }))
  }
  const self = { pid: process.pid, identity: processIdentity(process.pid) }

  it('holds the file during the action only, whether it returns or throws', async () => {
    const result = await withLock(path, async () => {
      assert.ok(existsSync(path))
      assert.equal(isStale(path), false)
      return 7
    })
    assert.equal(result, 7)
    assert.equal(existsSync(path), false)
    await assert.rejects(
      withLock(path, async () => {
        throw new RangeError('inside')
      }),
      RangeError,
    )
    assert.equal(existsSync(path), false)
  })

  it('lets one action run at a time', async () => {
    let [inside, most, done] = [0, 0, 0]
    const action = async () => {
      most = Math.max(most, ++inside)
      await sleep(3)
      inside--
      done++
    }
    await Promise.all(Array.from({ length: 12 }, () => withLock(path, action, { pollMs: 1 })))
    assert.deepEqual([most, done], [1, 12])
  })

  it('takes over from a dead process', async () => {
    const { pid } = spawnSync(process.execPath, ['--eval', ''])
    hold({ pid, identity: 'boot:1' })
    assert.equal(isStale(path), true)
    let waited = false
    await withLock(path, async () => undefined, { onWait: () => (waited = true) })
    assert.equal(waited, false)
  })

  it('takes over from a process whose number was given to another', () => {
    hold({ pid: process.pid, identity: `${self.identity}0` })
    assert.equal(isStale(path), true)
    hold(self)
    assert.equal(isStale(path), false)
  })

  it('waits for a child that outlives its killed parent', async () => {
    const child = spawn(process.execPath, ['--eval', 'setTimeout(() => {}, 60_000)'])
    const parent = { pid: 2 ** 22 + 1, identity: 'boot:1' }
    hold(parent, { pid: child.pid!, identity: processIdentity(child.pid!) })
    let waitedFor: number | undefined
    const waiting = withLock(path, async () => 'taken', {
      pollMs: 5,
      onWait: (pid: number) => (waitedFor = pid),
    })
    await sleep(50)
    assert.equal(waitedFor, child.pid)
    const ended = once(child, 'exit')
    child.kill()
    await ended
    assert.equal(await waiting, 'taken')
  })

  it('takes over from a file that was created and never written, after a while', async () => {
    writeFileSync(path, '')
    assert.equal(isStale(path), false)
    const before = new Date(Date.now() - 60_000)
    utimesSync(path, before, before)
    assert.equal(await withLock(path, async () => 1), 1)
  })

  it('is taken once by many processes that find it stale at once', async () => {
    hold({ pid: 2 ** 22 + 1, identity: 'boot:1' })
    const log = join(folder, 'log')
    const program = `
      const { appendFileSync } = require('node:fs')
      const { withLock } = require(${JSON.stringify(join(import.meta.dirname, '../../scripts/lock.mjs'))})
      withLock(${JSON.stringify(path)}, async () => {
        appendFileSync(${JSON.stringify(log)}, 'in ')
        await new Promise((resolve) => setTimeout(resolve, 20))
        appendFileSync(${JSON.stringify(log)}, 'out ')
      }, { pollMs: 2 })`
    const children = Array.from({ length: 5 }, () =>
      spawn(process.execPath, ['--no-warnings', '--input-type=commonjs', '--eval', program], {
        stdio: 'inherit',
        env: { ...process.env, NODE_OPTIONS: '' },
      }),
    )
    await Promise.all(children.map((child) => once(child, 'exit')))
    assert.equal(readFileSync(log, 'utf8'), 'in out '.repeat(5))
  })
})
