package condition

import (
	"fmt"
	"slices"
)

// Walk calls visit for an expression and for all in it, from left to right, what is around first.
// It does not go into an expression for which visit returns false.
func Walk(e Expr, visit func(Expr) bool) {
	if !visit(e) {
		return
	}
	switch e := e.(type) {
	case *And:
		for _, t := range e.Terms {
			Walk(t, visit)
		}
	case *Or:
		for _, t := range e.Terms {
			Walk(t, visit)
		}
	case *Not:
		Walk(e.Term, visit)
	}
}

// WalkOperands calls visit for the operands of the checks in an expression, from left to right,
// and for all operands in them.
func WalkOperands(e Expr, visit func(*Check, Operand)) {
	Walk(e, func(e Expr) bool {
		if c, ok := e.(*Check); ok {
			walkOperand(c, c.Left, visit)
			if c.Right != nil {
				walkOperand(c, c.Right, visit)
			}
		}
		return true
	})
}

func walkOperand(c *Check, o Operand, visit func(*Check, Operand)) {
	visit(c, o)
	switch o := o.(type) {
	case *Transformer:
		for _, a := range o.Args {
			walkOperand(c, a, visit)
		}
	case *List:
		for _, item := range o.Items {
			walkOperand(c, item, visit)
		}
	}
}

// Same tells whether two expressions are the same, wherever they are and whatever is in quotes.
func Same(a, b Expr) bool {
	switch a := a.(type) {
	case *And:
		b, ok := b.(*And)
		return ok && slices.EqualFunc(a.Terms, b.Terms, Same)
	case *Or:
		b, ok := b.(*Or)
		return ok && slices.EqualFunc(a.Terms, b.Terms, Same)
	case *Not:
		b, ok := b.(*Not)
		return ok && Same(a.Term, b.Term)
	case *Macro:
		b, ok := b.(*Macro)
		return ok && a.Name == b.Name
	case *Check:
		b, ok := b.(*Check)
		return ok && a.Op == b.Op && a.Doubled == b.Doubled && a.Modifier == b.Modifier && sameOperands(a.Left, b.Left) && sameOperands(a.Right, b.Right)
	}
	panic(fmt.Sprintf("no such expression: %T", a))
}

// sameOperands tells whether two operands are the same, wherever they are and whatever is in
// quotes. Both may be nil.
func sameOperands(a, b Operand) bool {
	switch a := a.(type) {
	case nil:
		return b == nil
	case *Field:
		b, ok := b.(*Field)
		return ok && a.Name == b.Name && a.Arg == b.Arg && a.ArgPresent == b.ArgPresent && a.Val == b.Val
	case *Transformer:
		b, ok := b.(*Transformer)
		return ok && a.Name == b.Name && a.Arg == b.Arg && a.ArgPresent == b.ArgPresent && slices.EqualFunc(a.Args, b.Args, sameOperands)
	case *Literal:
		b, ok := b.(*Literal)
		return ok && a.Text == b.Text
	case *List:
		b, ok := b.(*List)
		return ok && a.Bare == b.Bare && slices.EqualFunc(a.Items, b.Items, sameOperands)
	}
	panic(fmt.Sprintf("no such operand: %T", a))
}
