import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it } from 'mocha'

const script = join(import.meta.dirname, '../../scripts/start.mjs')

describe('scripts/start', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-start-'))
    writeFileSync(join(folder, 'package.json'), '{ "type": "module" }')
  })
  afterEach(() => {
    rmSync(folder, { recursive: true })
  })

  const start = (name: string, text: string, ...args: string[]) => {
    writeFileSync(join(folder, name), text)
    return spawnSync(process.execPath, [script, name, ...args], {
      cwd: folder,
      encoding: 'utf8',
      env: { ...process.env, NODE_OPTIONS: '' },
    })
  }

  it('runs JavaScript and TypeScript, with their arguments', () => {
    for (const name of ['program.mjs', 'program.ts']) {
      const annotation = name.endsWith('.ts') ? ': string[]' : ''
      const text = `const rest${annotation} = process.argv.slice(2); console.log(rest.join('+'))`
      const { status, stdout, stderr } = start(name, text, 'one', '--two', 'th ree')
      assert.equal(stdout, 'one+--two+th ree\n', stderr)
      assert.equal(status, 0)
    }
  })

  it('keeps the exit code of the program, and gives 1 for one that throws', () => {
    assert.equal(start('a.mjs', 'process.exitCode = 2').status, 2)
    const { status, stderr } = start('b.mjs', `throw new Error('on purpose')`)
    assert.equal(status, 1)
    assert.match(stderr, /on purpose/)
  })
})
