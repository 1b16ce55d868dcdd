import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'mocha'
import { checkFolder, complaints, readElf } from '../../scripts/check-floors.mjs'
import { temporaryFolder } from '../temporary-folder.js'

const floor = {
  glibc: '2.28',
  libraries: ['libc.so.6', 'libstdc++.so.6'],
  exports: ['entry'],
}

describe('check-floors', () => {
  const at = temporaryFolder()
  const link = (output: string, ...args: string[]) =>
    execFileSync('cc', ['-shared', '-fPIC', '-nostdlib', '-o', output, ...args], { cwd: at('.') })

  /** A library of this name with one function of that version, and a binary that calls it. */
  function binary(library: string, version: string, source: string): Buffer {
    const folder = at(version)
    mkdirSync(folder)
    const file = (name: string, text: string) => {
      writeFileSync(join(folder, name), text)
      return join(folder, name)
    }
    const map = file('library.map', `${version} { global: called; local: *; };\n`)
    const called = file('library.c', 'int called(void) { return 1; }\n')
    link(join(folder, library), called, `-Wl,-soname,${library}`, `-Wl,--version-script,${map}`)
    const entry = file('binary.c', source)
    link(join(folder, 'binary'), entry, join(folder, library))
    return readFileSync(join(folder, 'binary'))
  }

  const calls = 'int called(void); int entry(void) { return called(); }\n'

  it('reads what a binary needs and gives', () => {
    const { libraries, versions, exports, needs } = readElf(
      binary('libc.so.6', 'GLIBC_2.28', calls),
    )
    assert.deepEqual(libraries, ['libc.so.6'])
    assert.deepEqual(versions, [{ library: 'libc.so.6', version: 'GLIBC_2.28' }])
    assert.deepEqual(exports, ['entry'])
    assert.deepEqual(needs, ['called'])
  })

  it('takes what is at or below the floor, and names what is above it', () => {
    assert.deepEqual(complaints(binary('libc.so.6', 'GLIBC_2.3.4', calls), floor), [])
    assert.deepEqual(complaints(binary('libc.so.6', 'GLIBC_2.34', calls), floor), [
      'needs GLIBC_2.34 of libc.so.6, above the floor 2.28',
    ])
    assert.deepEqual(complaints(binary('libc.so.6', 'GLIBC_3.0', calls), floor), [
      'needs GLIBC_3.0 of libc.so.6, above the floor 2.28',
    ])
  })

  it('names a C++ runtime, another library, an open C++ symbol and a symbol that others see', () => {
    assert.deepEqual(complaints(binary('libstdc++.so.6', 'GLIBCXX_3.4.30', calls), floor), [
      'needs GLIBCXX_3.4.30 of libstdc++.so.6',
    ])
    assert.deepEqual(complaints(binary('libgomp.so.1', 'GOMP_1.0', calls), floor), [
      'needs the library libgomp.so.1',
    ])
    const source = `${calls} int _ZSt4move(void); int also(void) { return _ZSt4move(); }\n`
    assert.deepEqual(complaints(binary('libc.so.6', 'GLIBC_2.2.5', source), floor), [
      'needs the C++ symbol _ZSt4move from elsewhere',
      'lets others see also',
    ])
  })

  it('names an entry point that is not there, and refuses what is no ELF file', () => {
    const source = 'int called(void); int other(void) { return called(); }\n'
    assert.deepEqual(
      complaints(binary('libc.so.6', 'GLIBC_2.4', source), { ...floor, exports: ['entry'] }),
      ['lets others see other', 'lacks the entry point entry'],
    )
    assert.throws(() => readElf(Buffer.from('#!/bin/sh\n')), /no 64-bit little-endian ELF file/)
    assert.throws(() => readElf(Buffer.alloc(0)), /no 64-bit little-endian ELF file/)
  })

  it('fails on a shipped name whose file breaks its floor, and finds nothing where there is none', () => {
    const file = binary('libc.so.6', 'GLIBC_2.36', calls)
    const folder = at('shipped')
    mkdirSync(folder)
    assert.equal(checkFolder(folder).size, 0)
    writeFileSync(join(folder, 'polylora.glibc.node'), file)
    const wrong = checkFolder(folder).get('polylora.glibc.node')!
    assert.ok(wrong.some((sentence) => sentence.includes('GLIBC_2.36')))
  })
})
