;; Multiplies, adds and stores, a hundred million times.
(module
  (memory (export "memory") 1)
  (func (export "_start")
    (local $left i32) (local $x i64)
    (local.set $left (i32.const 100000000))
    (loop $next
      (local.set $x
        (i64.add (i64.mul (local.get $x) (i64.const 6364136223846793005)) (i64.const 1442695040888963407)))
      (i64.store (i32.and (i32.wrap_i64 (local.get $x)) (i32.const 65528)) (local.get $x))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $next (local.get $left)))))
