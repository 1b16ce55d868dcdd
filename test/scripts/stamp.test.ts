import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, it } from 'mocha'
import { isInstalled, moveInto } from '../../scripts/bootstrap.mjs'
import { fingerprintOutputs, hashInputs, Stamp } from '../../scripts/stamp.mjs'

describe('scripts/stamp', () => {
  let folder: string
  const write = (name: string, text: string) => {
    mkdirSync(join(folder, name, '..'), { recursive: true })
    writeFileSync(join(folder, name), text)
  }
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-stamp-'))
  })
  afterEach(() => {
    rmSync(folder, { recursive: true })
  })

  it('hashes names, contents and extra words, below folders that need not exist', () => {
    write('src/a.cc', 'one')
    write('src/b/c.cc', 'two')
    const hash = (extra = '') => hashInputs(folder, ['src', 'absent'], extra)
    const seen = [hash(), hash('other compiler')]
    write('src/a.cc', 'one!')
    seen.push(hash())
    write('src/d.cc', '')
    seen.push(hash())
    rmSync(join(folder, 'src/b'), { recursive: true })
    seen.push(hash())
    assert.equal(new Set(seen).size, seen.length)
    assert.equal(hash(), seen.at(-1))
  })

  it('is current only for the same inputs and untouched outputs', async () => {
    const stamp = new Stamp(join(folder, 'stamps/step'))
    const outputs = () => fingerprintOutputs(folder, ['out'])
    assert.equal(stamp.isCurrent('inputs', outputs()), false)
    await stamp.guard(async () => {
      assert.equal(stamp.wasInterrupted(), true)
      write('out/addon', 'made')
      return { inputs: 'inputs', outputs: outputs() }
    })
    assert.equal(stamp.wasInterrupted(), false)
    assert.equal(stamp.isCurrent('inputs', outputs()), true)
    assert.equal(stamp.isCurrent('others', outputs()), false)
    write('out/addon', 'made by another')
    assert.equal(stamp.isCurrent('inputs', outputs()), false)
  })

  it('is not current after a step that failed, which left nothing torn', async () => {
    const stamp = new Stamp(join(folder, 'step'))
    await stamp.guard(async () => ({ inputs: 'a', outputs: 'b' }))
    await assert.rejects(
      stamp.guard(async () => {
        throw new Error('does not compile')
      }),
    )
    assert.equal(stamp.isCurrent('a', 'b'), false)
    assert.equal(stamp.wasInterrupted(), false)
  })

  it('knows that a step was killed', async () => {
    const path = join(folder, 'step')
    const module = join(import.meta.dirname, '../../scripts/stamp.mjs')
    const program = `
      const { Stamp } = require(${JSON.stringify(module)})
      new Stamp(${JSON.stringify(path)}).guard(() => new Promise(() => setTimeout(() => {}, 60_000)))
      console.log('started')`
    const stamp = new Stamp(path)
    await stamp.guard(async () => ({ inputs: 'a', outputs: 'b' }))
    const child = spawn(
      process.execPath,
      ['--no-warnings', '--input-type=commonjs', '--eval', program],
      { stdio: ['ignore', 'pipe', 'inherit'], env: { ...process.env, NODE_OPTIONS: '' } },
    )
    await once(child.stdout, 'data')
    const ended = once(child, 'exit')
    child.kill('SIGKILL')
    await ended
    assert.equal(stamp.wasInterrupted(), true)
    assert.equal(stamp.isCurrent('a', 'b'), false)
    await stamp.guard(async () => ({ inputs: 'a', outputs: 'b' }))
    assert.equal(stamp.wasInterrupted(), false)
    assert.equal(stamp.isCurrent('a', 'b'), true)
  })
})

describe('scripts/bootstrap', () => {
  let folder: string
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-bootstrap-'))
    mkdirSync(join(folder, 'node_modules/a'), { recursive: true })
  })
  afterEach(() => {
    rmSync(folder, { recursive: true })
  })

  const locked = (entries: object) => {
    const packages = { '': { name: 'x' }, ...entries }
    writeFileSync(join(folder, 'package-lock.json'), JSON.stringify({ packages }))
  }
  const installed = (packages: object) => {
    writeFileSync(join(folder, 'node_modules/.package-lock.json'), JSON.stringify({ packages }))
  }
  const a = { version: '1.2.3', integrity: 'sha512-a' }

  it('takes an installation for complete only if it holds what the lockfile names', () => {
    locked({ 'node_modules/a': a })
    assert.equal(isInstalled(folder), false, 'interrupted: npm writes its inventory last')
    installed({ 'node_modules/a': a })
    assert.equal(isInstalled(folder), true)
    installed({ 'node_modules/a': { ...a, version: '1.2.2' } })
    assert.equal(isInstalled(folder), false, 'another version')
    installed({ 'node_modules/a': { ...a, integrity: 'sha512-b' } })
    assert.equal(isInstalled(folder), false, 'another content')
    installed({})
    assert.equal(isInstalled(folder), false, 'without development dependencies')
    installed({ 'node_modules/a': a })
    rmSync(join(folder, 'node_modules/a'), { recursive: true })
    assert.equal(isInstalled(folder), false, 'the folder was removed')
  })

  it('does not wait for optional packages of other platforms', () => {
    const optional = { ...a, optional: true }
    installed({})
    locked({ 'node_modules/b': { ...optional, os: ['sunos'], cpu: [process.arch] } })
    assert.equal(isInstalled(folder), true)
    locked({ 'node_modules/b': { ...optional, os: [process.platform], cpu: ['mips'] } })
    assert.equal(isInstalled(folder), true)
    locked({ 'node_modules/b': { ...optional, os: [process.platform], cpu: [process.arch] } })
    assert.equal(isInstalled(folder), false)
    locked({ 'node_modules/b': { ...optional, os: [`!${process.platform}`] } })
    assert.equal(isInstalled(folder), true)
  })

  it('replaces a folder file by file', () => {
    const write = (name: string, text: string) => {
      mkdirSync(join(folder, name, '..'), { recursive: true })
      writeFileSync(join(folder, name), text)
    }
    write('dist/same.js', 'same')
    write('dist/changed.js', 'before')
    write('dist/gone/old.js', 'old')
    write('dist/was-folder/x.js', 'x')
    write('next/same.js', 'same')
    write('next/changed.js', 'after')
    write('next/new/deep.js', 'deep')
    write('next/was-folder', 'a file now')
    moveInto(join(folder, 'next'), join(folder, 'dist'))
    assert.equal(readFileSync(join(folder, 'dist/changed.js'), 'utf8'), 'after')
    assert.equal(readFileSync(join(folder, 'dist/new/deep.js'), 'utf8'), 'deep')
    assert.equal(readFileSync(join(folder, 'dist/was-folder'), 'utf8'), 'a file now')
    assert.equal(readFileSync(join(folder, 'dist/same.js'), 'utf8'), 'same')
    assert.equal(existsSync(join(folder, 'dist/gone/old.js')), false)
    assert.equal(existsSync(join(folder, 'next')), false)
  })
})
