import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { publint } from 'publint'
import { formatMessage } from 'publint/utils'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))

/** Runs a program in a plain Node, with the package found by its own name, as a user finds it. */
function node(type: 'commonjs' | 'module', program: string): string {
  return execFileSync(process.execPath, [`--input-type=${type}`, '--eval', program], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, NODE_OPTIONS: '', NODE_NO_WARNINGS: '1' },
  }).trim()
}

describe('package', () => {
  it('gives require() and import one instance of every export', () => {
    const output = node(
      'commonjs',
      `const required = require('polylora')
       import('polylora').then((imported) => {
         const names = Object.keys(imported).filter((name) => name !== 'module.exports')
         const same = names.filter((name) => imported[name] === required[name])
         const error = new required.ShapeError('x')
         console.log(JSON.stringify([names.length, same.length, error instanceof imported.ShapeError]))
       })`,
    )
    const [exported, same, isInstance] = JSON.parse(output)
    assert.ok(exported > 10, `${exported} exports`)
    assert.equal(same, exported)
    assert.equal(isInstance, true)
  })

  it('exports the same names from lib/ and from dist/', async () => {
    const source = Object.keys(await import('../lib/index.js'))
    const built = node(
      'module',
      `import * as all from 'polylora'; console.log(Object.keys(all).sort().join())`,
    )
    assert.equal(built, source.sort().join())
  })

  it('has no script that npm runs on its own', () => {
    const scripts = Object.keys(manifest.scripts)
    for (const name of ['install', 'prepare', 'prepublish', 'publish', 'dependencies'])
      assert.ok(!scripts.includes(name), name)
    // npm runs preX and postX around X, be X a script or a step of its own.
    const steps = [...scripts, 'install', 'uninstall', 'pack', 'publish', 'version', 'shrinkwrap']
    assert.deepEqual(
      scripts.filter((name) => steps.some((step) => [`pre${step}`, `post${step}`].includes(name))),
      [],
    )
    assert.equal(manifest.gypfile, false)
  })

  it('needs no dependency that has an install script', () => {
    const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'))
    const needed = Object.entries<{ dev?: boolean; hasInstallScript?: boolean }>(packages)
      .filter(([path, entry]) => path !== '' && !entry.dev && entry.hasInstallScript)
      .map(([path]) => path)
    assert.deepEqual(needed, [])
  })

  it('pins every dependency, and records no registry in the lockfile', () => {
    const ranges = Object.entries({ ...manifest.dependencies, ...manifest.devDependencies })
    for (const [name, range] of ranges) assert.match(String(range), /^\d+\.\d+\.\d+$/, name)
    assert.doesNotMatch(readFileSync(join(root, 'package-lock.json'), 'utf8'), /"resolved"/)
  })

  it('passes publint', async () => {
    const { messages, pkg } = await publint({ pkgDir: root, strict: true })
    // The command's source may not be there yet; once it is, its build must be.
    const absent = !existsSync(join(root, 'lib/cli/main.ts'))
    const expected = messages.filter(
      ({ code, path }) => !(absent && code === 'FILE_DOES_NOT_EXIST' && path[0] === 'bin'),
    )
    assert.deepEqual(
      expected.map((message) => formatMessage(message, pkg)),
      [],
    )
  }).timeout(60_000)
})
