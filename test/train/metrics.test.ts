import assert from 'node:assert/strict'
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { CheckpointError } from '../../lib/errors.js'
import { MetricsFile, readMetrics, type StepMetrics } from '../../lib/train/metrics.js'
import { faultyFileSystem } from '../faulty-file-system.js'
import { temporaryFolder } from '../temporary-folder.js'

const metrics = (step: number): StepMetrics => ({
  step,
  loss: 3 / step,
  gradNorm: 0.5,
  learningRate: 1e-4,
  tokens: step * 1000,
  tokensPerSecond: 123.5,
  lossByDiscipline: { chimie: 2, 'géographie\n': null },
})

async function steps(path: string): Promise<number[]> {
  const all: number[] = []
  for await (const { step } of readMetrics(path)) all.push(step)
  return all
}

describe('metrics', () => {
  const at = temporaryFolder()

  async function write(name: string, upTo: number): Promise<string> {
    const file = await MetricsFile.open(at(name), 0)
    const all: Promise<void>[] = []
    for (let step = 1; step <= upTo; step++) all.push(file.append(metrics(step)))
    await Promise.all(all)
    await file.append({ step: upTo, evaluation: { loss: 1.5, lossByDiscipline: {} } })
    await file.sync()
    await file.close()
    return at(name)
  }

  it('has one line a record, in the order of the calls', async () => {
    const path = await write('plain', 40)
    const lines = readFileSync(path, 'utf8').split('\n')
    assert.equal(lines.length, 42)
    assert.equal(lines[41], '')
    assert.deepEqual(JSON.parse(lines[16]), metrics(17))
    assert.deepEqual(await steps(path), [...Array.from({ length: 40 }, (_, i) => i + 1), 40])
  })

  it('is cut back to a step, byte for byte as it was then', async () => {
    const short = readFileSync(await write('short', 13), 'utf8')
    const path = await write('long', 29)
    const file = await MetricsFile.open(path, 13)
    await file.append({ step: 13, evaluation: { loss: 1.5, lossByDiscipline: {} } })
    await file.close()
    assert.equal(readFileSync(path, 'utf8'), short)
    await (await MetricsFile.open(path, 0)).close()
    assert.equal(readFileSync(path, 'utf8'), '')
  })

  it('forgets a torn last line, whatever its bytes', async () => {
    const whole = readFileSync(await write('whole', 5))
    const last = Buffer.from(`${JSON.stringify(metrics(6))}\n`)
    for (let bytes = 0; bytes < last.length; bytes++) {
      const path = at('torn')
      writeFileSync(path, Buffer.concat([whole, last.subarray(0, bytes)]))
      assert.deepEqual(await steps(path), [1, 2, 3, 4, 5, 5])
      await (await MetricsFile.open(path, 1000)).close()
      assert.deepEqual(readFileSync(path), whole)
    }
    appendFileSync(at('torn'), '\0\0\0\0\n{"step":"7"}\nnull\n')
    assert.deepEqual(await steps(at('torn')), [1, 2, 3, 4, 5, 5])
  })

  it('refuses a file that is none', async () => {
    writeFileSync(at('binary'), Buffer.alloc(2 << 20, 1))
    await assert.rejects(MetricsFile.open(at('binary'), 3), CheckpointError)
  })

  it('takes a partial line back when a write fails', async () => {
    for (let nth = 0; nth < 8; nth++) {
      const path = at(`fault-${nth}`)
      const faulty = faultyFileSystem({ nth, code: 'ENOSPC' })
      let done = 0
      let file: MetricsFile | undefined
      try {
        file = await MetricsFile.open(path, 0, faulty)
        for (let step = 1; step <= 5; step++) {
          await file.append(metrics(step))
          done = step
        }
        await file.sync()
        done = 6
      } catch (error) {
        assert.ok(error instanceof CheckpointError)
        assert.equal(error.details.error, 'ENOSPC')
      } finally {
        await file?.close()
      }
      assert.equal(done, [0, 0, 1, 2, 3, 4, 5, 6][nth])
      if (nth > 0) assert.equal((await steps(path)).length, Math.min(done, 5))
      if (nth > 0) assert.ok(!readFileSync(path, 'utf8').includes('}{'))
    }
  })
})
