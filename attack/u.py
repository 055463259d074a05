exec(open('cmp.py').read().split("def both")[0].replace('ts.url','us.url').replace('tp.url','up.url'))
import random,urllib.parse
def token(x): return subprocess.check_output(['./cs','token',x],text=True).strip()
for n,u in (('sqlite',S),('pg',P)):
    print('==',n)
    rnd=lambda k:''.join(random.choice('abcdefghijklmnopqrstuvwxyz0123456789ABCDEFG') for _ in range(k))
    print('comp plain',call(u,'POST','/comps',{'a':rnd(1200),'b':rnd(1200)})[0])
    ctl=lambda k:''.join(chr(random.randrange(1,32)) for _ in range(k))
    for k in (200,400,600,1200):
        s,t=call(u,'POST','/comps',{'a':ctl(k),'b':ctl(k)}); print('comp ctl',k,s,t[-150:] if s>201 else '')
    print("vl",[ (k,call(u,"POST","/vl",{"id":rnd(k)})[0]) for k in (2400,2500,2576)])
    import base64,os
    for k in ():
        s,t=call(u,'POST','/blobs',{'id':base64.b64encode(os.urandom(k)).decode()}); print('bytes',k,s,t[-200:] if s>201 else '')
    seg=[x for x in ['/'+'very-long-key-model-name'*0]]
    s,t=call(u,'POST','/wides',{'id':1,'f399':'x'}); print('wide',s,t[-150:] if s>201 else '')
    # denied with long keys
    for q in ('/comps/'+urllib.parse.quote(ctl(600),safe='')+','+urllib.parse.quote(ctl(600),safe=''),'/comps/'+rnd(2500)+','+rnd(2500)):
        s,t=call(u,'DELETE',q); print('denied',s,t[-150:])
