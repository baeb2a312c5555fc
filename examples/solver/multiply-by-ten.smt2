; Is there a 32-bit number x for which (x << 3) + (x << 1) differs from x * 10, or for which the
; widely used test "x & (x - 1) is zero" calls a number with two or more bits set a power of two?
; "unsat" (exit code 20) proves that there is none, so that a synthesis tool may replace the
; multiplier by two shifts and an adder.
(set-logic QF_BV)
(declare-fun x () (_ BitVec 32))
(declare-fun i () (_ BitVec 32))
(declare-fun j () (_ BitVec 32))

(define-fun shifted () (_ BitVec 32) (bvadd (bvshl x (_ bv3 32)) (bvshl x (_ bv1 32))))
(define-fun multiplied () (_ BitVec 32) (bvmul x (_ bv10 32)))
(define-fun one () (_ BitVec 32) (_ bv1 32))
(define-fun bit-i () (_ BitVec 32) (bvshl one i))
(define-fun bit-j () (_ BitVec 32) (bvshl one j))

(assert
  (or
    (distinct shifted multiplied)
    (and
      (bvult i (_ bv32 32)) (bvult j i)
      (distinct (bvand x bit-i) (_ bv0 32))
      (distinct (bvand x bit-j) (_ bv0 32))
      (= (bvand x (bvsub x one)) (_ bv0 32)))))
(check-sat)
(exit)
